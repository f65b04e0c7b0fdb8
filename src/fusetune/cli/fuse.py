# SPDX-License-Identifier: Apache-2.0
"""`fusetune fuse FILES... --targets FILE`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusetune.cli.options import AsJson, Out
from fusetune.errors import InvalidValue

if TYPE_CHECKING:
    from fusetune.predictions.pool import Reading

__all__ = ["fuse"]

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Prediction files (Parquet, CSV, npz, npy), named like the members; detections as COCO "
        "results (JSON), tables with a line per box, or folders of YOLO files; masks as a folder with "
        "a PNG, npy or npz file per image."
    ),
]
Targets = Annotated[
    Path,
    typer.Option(
        help="A file with the columns `id` and `target`; perhaps `role`. Of detections: COCO "
        "annotations (JSON), or a folder of YOLO or Pascal VOC labels; of masks: a folder of label maps."
    ),
]
Metric = Annotated[
    str | None, typer.Option(help="What decides; by default accuracy, RMSE or macro F1.")
]
Method = Annotated[
    list[str] | None,
    typer.Option(help="auto, best, or a fusion method; more than one restricts auto to them."),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="Share of the rows that fit the fusion; the rest judge it. 1: all do both, in-sample. "
        "By default the targets' column `role`, or cross-fitting."
    ),
]
Task = Annotated[
    str,
    typer.Option(
        help="classification, multilabel, regression, object_detection or semantic_segmentation, if "
        "not to be inferred."
    ),
]
Form = Annotated[
    list[str] | None,
    typer.Option(help="MEMBER=FORM: probabilities, logits, scores, labels, features, ..."),
]
Classes = Annotated[
    str,
    typer.Option(
        help="Names of the columns of npy files, of YOLO's classes or of masks' numbers, by commas."
    ),
]
Missing = Annotated[str, typer.Option(help="error, or renormalize: a row may lack some members.")]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Leave out annotations that are wrong, cut boxes at the image's edge, ignore pixels of "
        "strange classes, stretch masks of another shape.",
    ),
]
IgnoreIndex = Annotated[
    int, typer.Option(help="Number in label maps of pixels of no class; -1: there is none.")
]
Calibrate = Annotated[
    str, typer.Option(help="Calibrator of the chosen fusion, cross-fitted; none: as it is.")
]
CalibrateMembers = Annotated[
    str, typer.Option(help="Calibrator of every member before it is fused; none: as they are.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Bound on the memory taken, for files larger than it: 1GB, 800MB. Needs --holdout or "
        "the column `role`; rows pass by in blocks."
    ),
]
Seed = Annotated[int, typer.Option(help="Of the division of the rows, and of resampling.")]


def fuse(
    files: Files,
    targets: Targets,
    metric: Metric = None,
    method: Method = None,
    holdout: Holdout = None,
    task: Task = "auto",
    form: Form = None,
    classes: Classes = "",
    missing: Missing = "error",
    repair: Repair = False,
    ignore_index: IgnoreIndex = 255,
    calibrate: Calibrate = "temperature",
    calibrate_members: CalibrateMembers = "none",
    memory: Memory = None,
    out: Out = None,
    seed: Seed = 0,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Draw the report.")] = True,
    as_json: AsJson = False,
) -> None:
    """Fuse prediction files of any framework, and say whether it was worth it.

    Example: fusetune fuse resnet.parquet vit.csv --targets targets.csv --metric log_loss

    Example: fusetune fuse yolo.json detr.json --targets annotations.json

    Example: fusetune fuse unet/ deeplab/ --targets label_maps/ --classes road,car,sky
    """
    from fusetune.cli.summary import print_results
    from fusetune.pipeline import fuse_files

    told = _reading(task, form or (), classes, missing, repair, ignore_index)
    finished = fuse_files(
        files,
        targets,
        out=out,
        metric=metric,
        methods=method or ("auto",),
        holdout=holdout,
        seed=seed,
        report=report,
        calibrate=calibrate,
        calibrate_members=calibrate_members,
        memory=memory,
        reading=told,
    )
    print_results(finished.results, finished.folder, as_json)


def _reading(
    task: str, forms: Iterable[str], classes: str, missing: str, repair: bool, ignore_index: int
) -> "Reading":
    """What the options say of the files."""
    from fusetune.predictions.pool import Reading

    known: Any = missing  # checked by Reading
    names = [name for name in classes.split(",") if name]
    return Reading(
        task=task,
        forms=_forms(forms),
        classes=names,
        missing=known,
        repair=repair,
        ignore_index=None if ignore_index < 0 else ignore_index,
    )


def _forms(pairs: Iterable[str]) -> dict[str, str]:
    """Member → form, from `MEMBER=FORM`."""
    forms = {}
    for pair in pairs:
        member, equals, form = pair.rpartition("=")
        if not equals or not member:
            raise InvalidValue(
                f"--form is '{pair}'", "MEMBER=FORM", "Write --form resnet=logits, for instance."
            )
        forms[member] = form
    return forms
