# SPDX-License-Identifier: Apache-2.0
"""Images with label maps: a class for every pixel."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fusetune.data.dataset import Dataset, Rows, check_path
from fusetune.data.image_sizes import image_sizes
from fusetune.data.inputs import FileImages
from fusetune.data.label_truth import chosen_classes, of_shown_classes, places_of, stored
from fusetune.data.listing import listed_images
from fusetune.errors import DataError, InvalidValue, PredictionError, counted, name_some
from fusetune.predictions.kinds import Array, as_ids
from fusetune.predictions.segmentation.files import FileLabels, Legend, mask_paths, read_legend
from fusetune.predictions.segmentation.label_maps import LabelMap, LabelMaps
from fusetune.predictions.targets import GroundTruth

__all__ = ["Masks"]


@dataclass(frozen=True, kw_only=True)
class Masks(Dataset):
    """A folder of images beside one of label maps of the same names.

    A label map is a PNG (or BMP, TIFF, GIF, npy, npz) of class numbers, in a palette or not, or of
    colors that `classes.txt` names. A row is an image, its id the path in the folder without the
    ending. Classes of which there is no pixel are left out, which a note says.

    Args:
        images: The folder of the images, at any depth.
        masks: The folder of the label maps, with the same folders below it.
        names: Of the class numbers from 0 on; null: those of `classes.txt` there or above, which may
            add a color to each name (`road 128 64 128`).
        ignore_index: Number of the pixels that are of no class, 255 as in Pascal VOC; null: none.
        suffix: What the label maps' names have behind the images': `_labels`, `_gtFine_labelIds`.
        repair: Ignore pixels of a number or color without a class, and leave out images that have no
            label map, and label maps that have no image; a note says how many. By default each is an
            error.
        classes: The only classes that count: pixels of others are ignored; null: all of them.

    Raises:
        DataError: See `read_as`.
    """

    images: Path
    masks: Path
    names: tuple[str, ...] | None = None
    ignore_index: int | None = 255
    suffix: str = ""
    repair: bool = False
    classes: tuple[str, ...] | None = None

    def read(self) -> Rows:
        """Refused: no image has one class.

        Raises:
            DataError: Always, but for a path that is not there.
        """
        self._paths()
        raise DataError(
            "the source masks gives a class for every pixel",
            "task: semantic_segmentation, or a source of one class per image",
            "Change the task, or use the source folder or table.",
        )

    def read_as(self, truth: type[GroundTruth]) -> Rows:
        """All rows with `LabelMaps`, sorted by id.

        Raises:
            DataError: Label maps that are damaged, of another size than their image, in colors
                without a legend, or with a number or color of no class; images or label maps without
                the other; or nothing that names the classes. Each is named.
        """
        if truth is not LabelMaps:
            return super().read_as(truth)
        images, masks = self._paths()
        try:
            legend = read_legend(masks, self.names or ())
            found = mask_paths(masks)
        except (PredictionError, InvalidValue) as error:
            raise _of_data(error) from error
        if legend is None:
            raise DataError(
                f"nothing names the classes of '{masks}'",
                f"a classes.txt in '{masks}' or beside it, with a name in every line",
                "Write it, or give data.names.",
            )
        legend = replace(legend, ignored=self.ignore_index, lenient=self.repair)
        paths, notes = self._pairs(images, found)
        files = FileImages(tuple(image for image, _ in paths.values()))
        sizes_N2 = image_sizes(files)
        wanted = chosen_classes(legend.classes, self.classes)
        maps = _read_maps([mask for _, mask in paths.values()], legend, sizes_N2)
        place = places_of(legend.classes, wanted)
        known = stored(as_ids(list(paths)), wanted, (place[labels + 1] for labels in maps))
        shown, more = of_shown_classes(known)
        if others := [name for name in legend.classes if name not in wanted]:
            more = (*more, f"pixels of {name_some(others)} are ignored")
        return Rows(shown.ids, files, classes=shown.classes, truth=shown, notes=(*notes, *more))

    def _paths(self) -> tuple[Path, Path]:
        return check_path(self.images, "data.images"), check_path(self.masks, "data.masks")

    def _pairs(
        self, folder: Path, masks: dict[str, Path]
    ) -> tuple[dict[str, tuple[Path, Path]], tuple[str, ...]]:
        """Id → the image's file and the label map's, and notes on those without the other."""
        images = _images(folder)
        of_image = {
            name.removesuffix(self.suffix): path
            for name, path in masks.items()
            if name.endswith(self.suffix)
        }
        without = [name for name in images if name not in of_image]
        strange = [name for name in of_image if name not in images]
        for names, what, other in (
            (without, "image", "label map"),
            (strange, "label map", "image"),
        ):
            if names and not self.repair:
                raise DataError(
                    f"{counted(len(names), what)} {'has' if len(names) == 1 else 'have'} no {other}: "
                    f"{name_some(names)}",
                    f"one of the same name in '{self.masks if other != 'image' else folder}'",
                    "Check the folders and data.suffix, or write repair: true to leave them out.",
                )
        pairs = {name: (path, of_image[name]) for name, path in images.items() if name in of_image}
        if not pairs:
            raise DataError(
                f"no image in '{folder}' has a label map in '{self.masks}'",
                "files of the same names in both",
                "Check data.images and data.masks.",
            )
        left_out = len(without) + len(strange)
        note = f"{counted(left_out, 'image')} or label maps without the other left out"
        return pairs, (note,) * bool(left_out)


def _read_maps(paths: list[Path], legend: Legend, sizes_N2: Array) -> Iterator[LabelMap]:
    """Label maps one after the other, each of its image's size."""
    for path, (width, height) in zip(paths, sizes_N2.astype(int).tolist(), strict=True):
        try:
            labels = FileLabels(path, legend).read()
        except PredictionError as error:
            raise _of_data(error) from error
        if labels.shape != (height, width):
            raise DataError(
                f"the label map '{path}' is of {labels.shape[1]} by {labels.shape[0]} pixels, and its "
                f"image of {width} by {height}",
                "label maps of their images' sizes",
                "Give the images that were labeled, not resized or turned ones.",
            )
        yield labels


def _images(folder: Path) -> dict[str, Path]:
    """Path in the folder without the ending → file."""
    images: dict[str, Path] = {}
    for name in sorted(listed_images(folder)):
        stem = Path(name).with_suffix("").as_posix()
        if stem in images:
            raise DataError(
                f"'{folder}' has two images called '{stem}': {images[stem].name} and {Path(name).name}",
                "a name of its own for every image",
                "Rename one of them.",
            )
        images[stem] = folder / name
    return images


def _of_data(error: PredictionError | InvalidValue) -> DataError:
    """The same words, with the recipe's keys in place of the command's options."""
    remedy = error.remedy
    for option, key in (
        ("give --ignore-index", "give data.ignore_index"),
        ("pass --repair", "write repair: true"),
        ("leave --classes out", "leave data.names out"),
    ):
        remedy = remedy.replace(option, key).replace(option.capitalize(), key.capitalize())
    given = error.given.replace("--classes names", "data.names names")
    return DataError(given, error.expected, remedy)
