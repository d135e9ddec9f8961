"""The flags about what the program does, apart from training; see `schema`."""

import dataclasses

from keras_ft.catalog.formats import FORMATS, SAVED_MODEL
from keras_ft.config.fields import flag

MODES = ("train", "check", "evaluate", "predict", "export", "compare", "serve")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run."""

    mode: str = flag("train", "what to do", choices=MODES, modes=MODES)
    workdir: str = flag(
        "",
        "folder of the run; everything is written here",
        modes=MODES,
        is_path=True,
    )
    seed: int = flag(
        0, "seed of the split, initial weights, order", at_least=0, at_most=2**31 - 1
    )
    deterministic: bool = flag(
        False, "bitwise equal results for equal runs on the same machine"
    )
    overwrite: bool = flag(
        False,
        "replace an existing run or output",
        modes=("train", "check", "evaluate", "predict", "compare"),
    )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export and report."""

    export_formats: tuple[str, ...] = flag(
        (SAVED_MODEL,),
        "formats of the export, of a run or of --mode=export; empty: none; any of",
        choices=tuple(FORMATS),
        hints={"tflite": "; give litert, which writes model.tflite"},
        affects_result=False,
    )
    export_agreement: float = flag(
        0.99,
        "share of test images for which an export must give the same answers as the "
        "Keras model; one with significantly fewer is deleted and the exit status is 1",
        at_least=0,
        at_most=1,
        affects_result=False,
    )
    report: bool = flag(True, "write report.html", affects_result=False)


@dataclasses.dataclass(frozen=True)
class ApplyConfig:
    """Evaluate, predict and serve."""

    model: str = flag(
        "",
        "workdir, folder such as export/onnx, or model file; default: the workdir",
        modes=("evaluate", "predict", "serve"),
        is_path=True,
    )
    output: str = flag(
        "",
        "file for predictions (CSV; .jsonl: JSON Lines), findings (CSV) or metrics "
        "(JSON); check writes a page, FILE.html, beside it, and evaluate a page and "
        "the wrong images, FILE.wrong.csv; default: the terminal",
        modes=("check", "evaluate", "predict"),
        is_path=True,
    )
    top_k: int = flag(
        3, "maximum number of classes per prediction", at_least=1, modes=("predict",)
    )
    features: str = flag(
        "",
        ".npy file for the features before the head, float32 [N, D]",
        modes=("predict",),
        is_path=True,
    )
    heatmaps: str = flag(
        "",
        "folder for the images with a Grad-CAM heatmap of the predicted class",
        modes=("predict",),
        is_path=True,
    )


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Compare."""

    sweep: str = flag(
        "",
        "flags and values to compare, such as "
        '"backbone=resnet50|mobilenet_v2;unfreeze=none|from:conv5|all"; every '
        "combination is trained",
        modes=("compare",),
    )
    seeds: int = flag(
        3,
        "runs of each combination, with --seed and the seeds after it",
        at_least=1,
        modes=("compare",),
    )


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Serve."""

    host: str = flag(
        "127.0.0.1",
        "address to listen on; 0.0.0.0: all of this machine's, for anyone who can "
        "reach it",
        modes=("serve",),
    )
    port: int = flag(
        8501,
        "port to listen on; 0: any that is free",
        at_least=0,
        at_most=65535,
        modes=("serve",),
    )


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Ray cluster, for compare and predict."""

    cluster: str = flag(
        "",
        "where runs and predictions run: ray (on this machine), ray:HOST:PORT or "
        "ray:auto (on the cluster that this machine belongs to); empty: without Ray",
        modes=("compare", "predict"),
    )
    run_cpus: int | None = flag(
        None,
        "with --cluster: cores of a run, or of a process that predicts; auto: those "
        "of a node, shared by its GPUs",
        modes=("compare", "predict"),
        at_least=1,
    )
    run_gpus: int | None = flag(
        None,
        "with --cluster: GPUs of a run, or of a process that predicts; auto: 1 if "
        "there are any",
        modes=("compare", "predict"),
        at_least=0,
    )

    @property
    def address(self) -> str:
        """Its address, `local` to start it here; empty without --cluster."""
        return self.cluster and (self.cluster.partition(":")[2] or "local")

    @property
    def kind(self) -> str:
        """A key of `CLUSTERS`."""
        return self.cluster.partition(":")[0]
