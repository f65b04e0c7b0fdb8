# SPDX-License-Identifier: Apache-2.0
"""`fusetune predict RUN INPUTS --out FILE`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="A folder of images, images, a table; or prediction files named like the members."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .csv or .parquet file; of masks a folder.")
    ],
    members: Annotated[
        bool, typer.Option("--members", help="Each member's predictions too.")
    ] = False,
) -> None:
    """Predict new rows with a run's ensemble: `id`, and one column per class.

    Masks are a folder with an npy file per image. With --members, `<stem>.<member><suffix>` files lie beside the fused one.

    Example: fusetune predict runs/demo new_images/ --out predictions.csv
    """
    from fusetune.ensemble import Ensemble
    from fusetune.errors import UsageError
    from fusetune.predictions.files import write_prediction

    ensemble = Ensemble.load(run)
    masks = ensemble.gives_masks
    if out.suffix not in (("",) if masks else (".csv", ".parquet")):
        expected = "a folder" if masks else "a file that ends in .csv or .parquet"
        raise UsageError(f"--out is '{out}'", expected, "Rename it.")
    names = None if members else ensemble.fusion.members
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", suffix=".tmp") as keep:
        given = _inputs(ensemble, inputs)
        stack = ensemble.predict_members(given, names, keep=Path(keep))
        write_prediction(out, ensemble.fusion(stack))
        for name in stack.members if members else ():
            write_prediction(out.with_name(f"{out.stem}.{name}{out.suffix}"), stack[name])
    print(out)


def _inputs(ensemble: object, paths: list[Path]) -> object:
    """The paths, as a list for an ensemble that was fused from prediction files."""
    from fusetune.ensemble import Ensemble

    assert isinstance(ensemble, Ensemble)
    if all(member.source is None for member in ensemble.members.values()):
        return paths
    return paths[0] if len(paths) == 1 else paths
