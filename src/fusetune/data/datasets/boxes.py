# SPDX-License-Identifier: Apache-2.0
"""Images with annotated boxes: COCO JSON, YOLO label files or Pascal VOC XML."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from fusetune.data.dataset import Dataset, Rows, check_path
from fusetune.data.image_sizes import image_sizes
from fusetune.data.inputs import FileImages
from fusetune.data.listing import listed_images
from fusetune.data.object_truth import in_pixels, of_classes, with_unlabeled
from fusetune.errors import DataError, PredictionError, counted, name_some
from fusetune.predictions.detection.annotations import Annotations, read_annotations
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.targets import GroundTruth

__all__ = ["Boxes"]


@dataclass(frozen=True, kw_only=True)
class Boxes(Dataset):
    """A folder of images beside annotations of the objects that they show.

    Annotations and images are matched by the image files' names without their endings. A row is an
    image that the annotations list; beside YOLO's label files, where an image without objects often
    has no file, every image. Classes of which there is no object are left out, which a note says.

    Args:
        images: The folder of the images, at any depth.
        annotations: A COCO JSON file, or a folder of YOLO label files (`class x y w h` as shares of
            the image) or of Pascal VOC XML files; null: the folder of the images.
        repair: Leave out objects without a positive size or of an unknown class, and cut those that
            stick out of their image; a note says how many. By default each is an error.
        names: Of the class numbers in YOLO files, in their order; null: those of `data.yaml` or
            `classes.txt` there or above.
        classes: The only classes that count: objects of others are left out; null: all of them.

    Raises:
        DataError: See `read_as`.
    """

    images: Path
    annotations: Path | None = None
    repair: bool = False
    names: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    def read(self) -> Rows:
        """Refused: no image has one class.

        Raises:
            DataError: Always, but for a path that is not there.
        """
        self._paths()
        raise DataError(
            "the source boxes gives objects and their boxes",
            "task: object_detection, or a source of one class per image",
            "Change the task, or use the source folder or table.",
        )

    def read_as(self, truth: type[GroundTruth]) -> Rows:
        """All rows with `Objects`, in pixels, in the order of the annotations.

        Raises:
            DataError: Annotations that cannot be read, that are cut short or faulty (named, unless
                `repair` mends them), images that are missing, have two files of a name, or another
                size than the annotations say.
        """
        if truth is not Objects:
            return super().read_as(truth)
        images, annotations = self._paths()
        try:
            known = read_annotations(annotations, repair=self.repair, classes=self.names or ())
        except PredictionError as error:
            raise DataError(
                error.given,
                error.expected,
                error.remedy.replace("pass --repair", "write repair: true"),
            ) from error
        found = self._found(images)
        if known.numbers:
            known = with_unlabeled(known, list(found))
        files = FileImages(self._files_of(known, found))
        objects = in_pixels(known.objects, image_sizes(files))
        objects, notes = of_classes(objects, self.classes)
        notes = (*known.notes, *notes, *_unlisted(known, found))
        return Rows(objects.ids, files, classes=objects.classes, truth=objects, notes=notes)

    def _paths(self) -> tuple[Path, Path]:
        images = check_path(self.images, "data.images")
        if self.annotations is None:
            return images, images
        return images, check_path(self.annotations, "data.annotations")

    def _found(self, folder: Path) -> dict[str, Path]:
        """Name without ending → file."""
        files: dict[str, list[Path]] = defaultdict(list)
        for name in listed_images(folder):
            files[Path(name).stem].append(folder / name)
        twice = [name for name, paths in files.items() if len(paths) > 1]
        if twice:
            first = files[twice[0]]
            raise DataError(
                f"{counted(len(twice), 'name')} of images in '{folder}' stand for several files: "
                f"{name_some([str(path.relative_to(folder)) for path in first])}",
                "a name of its own for every annotated image",
                "Rename them, or give the folder of one split.",
            )
        return {name: paths[0] for name, paths in sorted(files.items())}

    def _files_of(self, known: Annotations, found: dict[str, Path]) -> tuple[Path, ...]:
        stems = known.stems.tolist()
        missing = [name for name in stems if name not in found]
        if missing:
            raise DataError(
                f"{counted(len(missing), 'image')} of the annotations "
                f"{'is' if len(missing) == 1 else 'are'} not in '{self.images}': {name_some(missing)}",
                "a file for every annotated image",
                "Check data.images, or remove their annotations.",
            )
        if not stems:
            raise DataError(
                f"'{self.annotations or self.images}' lists no image",
                "annotated images",
                "Check data.annotations.",
            )
        return tuple(found[name] for name in stems)


def _unlisted(known: Annotations, found: dict[str, Path]) -> tuple[str, ...]:
    num = len(set(found) - set(known.stems.tolist()))
    return (f"{counted(num, 'image')} without annotations left out",) if num else ()
