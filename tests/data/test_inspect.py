# SPDX-License-Identifier: Apache-2.0
import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet as pq

from fusetune.data.inspect import suggest_recipe
from fusetune.data.prepare import prepare
from fusetune.data.roles import ROLES
from fusetune.errors import DataError, InvalidValue
from fusetune.recipe import load_recipe


def check(data: Path, **options):
    """The recipe as the command line reads it, and its rows; the counts it names are those it gives."""
    text = suggest_recipe(data, **options)
    file = data.parent / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    recipe = load_recipe(file)
    prepared = prepare(recipe.data.datasets, recipe.data.roles, recipe.data.limit, recipe.seed)
    counts = ", ".join(f"{role} {len(prepared.rows(role)):,}" for role in ROLES)
    assert f"# rows: {counts}\n" in text
    assert f"# Found: {len(prepared):,} images" in text
    return recipe, prepared, text


def test_a_folder_per_class(class_folder):
    recipe, prepared, text = check(class_folder)
    assert recipe.data.datasets["all"].name == "folder"
    assert prepared.classes == ("cat", "dog", "eel")
    assert "(8×8 pixels) of 3 classes:\n#   cat 10, dog 10, eel 10\n" in text
    assert [entry.name for entry in recipe.members] == ["mini-resnet", "mini-vgg", "mini-inception"]
    assert recipe.metric.name == "accuracy"
    assert recipe.members[0].finetune.augmentation.flip
    assert prepared.targets("holdout").labels_N.tolist().count(0) == 3  # 5 a class would be half


def test_the_path_is_absolute_or_relative_to_the_recipe(class_folder):
    assert f'path: "{class_folder}"' in suggest_recipe(class_folder)
    assert 'path: "pets"' in suggest_recipe(class_folder, recipe_folder=class_folder.parent)
    beside = class_folder.parent / "recipes"
    assert f'path: "{class_folder}"' in suggest_recipe(class_folder, recipe_folder=beside)
    check(class_folder, recipe_folder=class_folder.parent)


def test_folders_of_splits(class_folder, image_file):
    root = class_folder.parent / "both"
    root.mkdir()
    class_folder.rename(root / "train")
    for number, folder in enumerate(itertools.product(("val", "test"), ("cat", "dog", "eel"))):
        root.joinpath(*folder).mkdir(parents=True)
        root.joinpath(*folder, "new.png").write_bytes(image_file(100 + number))
    recipe, prepared, _ = check(root)
    assert list(recipe.data.datasets) == ["train", "validation", "test"]
    assert [len(prepared.rows(role)) for role in ("validation", "test")] == [3, 3]
    assert recipe.data.roles.sizes().keys() == {"holdout"}


def table(folder, image_file, name="rows.parquet", count=60, first=0, **columns):
    images = [image_file(first + number, (32, 40), "JPEG") for number in range(count)]
    columns.setdefault("label", [number % 3 for number in range(count)])
    pq.write_table(pa.table({"image": images, **columns}), folder / name)
    return folder / name


def test_a_table(tmp_path, image_file):
    (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
    recipe, prepared, text = check(table(tmp_path, image_file))
    assert prepared.classes == ("ant", "bee", "cow")
    assert "(40×32 pixels)" in text
    assert recipe.members[0].source.preprocess.size == 32


def test_a_table_with_other_names(tmp_path, image_file):
    split = ["train", "test", "validation", "holdout"] * 15
    path = table(tmp_path, image_file, label=[0.5] * 60, Target=list("abc") * 20, split=split)
    renamed = pq.read_table(path).rename_columns(["photo", "score", "Target", "split"])
    pq.write_table(renamed, path)
    recipe, prepared, _ = check(path)
    data = recipe.data.datasets["all"]
    assert (data.image, data.label, data.role) == ("photo", "Target", "split")
    assert prepared.roles_N.tolist() == split
    assert recipe.data.roles.sizes() == {}


def test_a_table_of_paths(class_folder):
    lines = [
        f"pets/{p.relative_to(class_folder)},{p.parent.name}" for p in class_folder.rglob("*.png")
    ]
    file = class_folder.parent / "rows.csv"
    file.write_text("\n".join(["file_name,class", *lines]))
    recipe, prepared, _ = check(file)
    assert recipe.data.datasets["all"].id == "file_name"
    assert sorted(prepared.ids.tolist()) == sorted(line.split(",")[0] for line in lines)


def test_a_folder_with_a_table_for_each_split(tmp_path, image_file):
    folder = tmp_path / "tables"
    folder.mkdir()
    table(folder, image_file, "my-train.parquet")
    table(folder, image_file, "my-test.parquet", count=9, first=100)
    recipe, prepared, _ = check(folder)
    assert list(recipe.data.datasets) == ["train", "test"]
    assert len(prepared.rows("test")) == 9
    (folder / "my-test.parquet").unlink()
    (folder / "my-train.parquet").rename(folder / "one.parquet")
    assert list(check(folder)[0].data.datasets) == ["all"]


def test_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 8, 8), dtype=np.uint8)
    labels = np.arange(90) % 10
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    recipe, _, text = check(tmp_path / "a.npz")
    assert recipe.data.datasets["all"].name == "arrays"
    assert not recipe.members[0].finetune.augmentation.flip
    assert "a mirrored letter or digit is another one" in text
    arrays = {
        "x_train": pixels[:60],
        "y_train": labels[:60],
        "x_test": pixels[60:],
        "y_test": labels[60:],
    }
    np.savez(tmp_path / "b.npz", **arrays)
    recipe, prepared, _ = check(tmp_path / "b.npz")
    assert len(prepared.rows("test")) == 30 and list(recipe.data.datasets) == ["train", "test"]


def test_copies_are_dropped_with_a_word(class_folder):
    content = (class_folder / "cat" / "00.png").read_bytes()
    for number in (1, 4, 7, 10, 13):
        (class_folder / "dog" / f"{number:02d}.png").write_bytes(content)
    recipe, prepared, text = check(class_folder)
    assert recipe.data.roles.duplicates == "keep_first" and len(prepared) == 25
    assert "some images occur more than once" in text


def test_imbalanced_classes_are_judged_by_macro_f1(class_folder, image_file):
    for number in range(30):
        (class_folder / "eel" / f"more-{number}.png").write_bytes(image_file(1000 + number))
    recipe, _, text = check(class_folder)
    assert recipe.metric.name == "macro_f1"
    assert "classes have 10 to 40 rows, and every class counts the same" in text


def test_many_rows_get_numbers_instead_of_shares(tmp_path):
    numbers = np.arange(40_000)
    pixels = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8)[:, :, None]
    np.savez(tmp_path / "a.npz", images=pixels, labels=numbers % 2)
    recipe, _, _ = check(tmp_path / "a.npz")
    assert recipe.data.roles.sizes() == {"validation": 2000, "holdout": 5000, "test": 0.2}


def test_the_commented_members_are_valid(class_folder):
    pytest.importorskip("torchvision")
    text = suggest_recipe(class_folder)
    lines = re.sub(r"^  # - \{", "  - {", text, flags=re.MULTILINE)
    members = load_recipe(yaml.safe_load(lines)).members
    assert [entry.name for entry in members[3:]] == [
        f"torchvision-{name}" for name in ("resnet18", "efficientnet_b0", "inception_v3")
    ]
    for entry in members[3:]:
        entry.source.check()


def test_photographs_keep_a_larger_size(tmp_path, image_file):
    for number in range(12):
        folder = tmp_path / "photos" / ("in", "out")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(image_file(number, (180 + number, 300), "JPEG"))
    recipe, _, text = check(tmp_path / "photos")
    assert "(300×180 pixels to 300×191)" in text
    assert recipe.members[0].source.preprocess.size == 64
    assert "model: resnet18, preprocess: {size: 192}" in text


def test_what_is_no_labelled_data_is_refused(tmp_path, image_file):
    with pytest.raises(DataError, match=r"the data is '.*', which does not exist"):
        suggest_recipe(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        DataError, match=r"the folder '.*/empty' holds nothing; expected a folder of images"
    ):
        suggest_recipe(empty)
    (empty / "a.png").write_bytes(image_file())
    with pytest.raises(
        DataError, match=r"holds 'a.png'; expected a folder of images for every class"
    ):
        suggest_recipe(empty)
    with pytest.raises(DataError, match=r"the data is the file '.*a.png'"):
        suggest_recipe(empty / "a.png")
    (tmp_path / "a.csv").write_text("sentence,label\nhello,1\n")
    with pytest.raises(
        DataError, match=r"columns 'sentence', 'label'; expected one with images, called image"
    ):
        suggest_recipe(tmp_path / "a.csv")
    path = table(tmp_path, image_file, label=[0] * 60)
    pq.write_table(pq.read_table(path).rename_columns(["image", "note"]), path)
    with pytest.raises(
        DataError, match=r"columns 'image', 'note'; expected one with labels, called label"
    ):
        suggest_recipe(path)
    np.savez(tmp_path / "a.npz", pictures=np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"holds the arrays 'pictures'; expected images and labels"):
        suggest_recipe(tmp_path / "a.npz")
    for name in ("b.npz", "b.parquet", "b.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=rf"'.*{name}' cannot be read"):
            suggest_recipe(tmp_path / name)


def test_too_few_rows_are_refused(tmp_path, image_file):
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "x.png").write_bytes(image_file(ord(name)))
    with pytest.raises(InvalidValue, match="test asks for 1 row, and 0 can be had"):
        suggest_recipe(tmp_path / "two")


@pytest.mark.data
def test_real_tables(data_folder):
    text = suggest_recipe(data_folder / "cifar10" / "jpeg_test.parquet")
    assert "# Found: 10,000 images (32×32 pixels) of 10 classes" in text
    assert "# rows: train 5,000, validation 1,000, holdout 2,000, test 2,000" in text
