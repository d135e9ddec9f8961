"""Speed of single training steps, with and without oneDNN, beside what is possible.

Guide and keras_ft in TensorFlow with oneDNN and without it, and PyTorch if installed,
take turns, a round at a time. TensorFlow reads the choice when it is imported, and each
of two frameworks would leave threads spinning under the other's, so each is a process
of its own, idle until asked: tensorflow_steps.py and torch_recipe.py. Every one of them
inherits the environment, such as ONEDNN_MAX_CPU_ISA=AVX2, which imitates a processor
without AVX-512 as far as oneDNN is concerned.

The roof is a large matrix product in the same process: the images per second at which
ResNet50's multiply-adds alone would run at that rate, three times as many for a
training step (forward, gradients of activations, gradients of weights).

    python benchmarks/step_rates.py --output=FILE
"""

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measure import (
    Seconds,
    child_environment,
    describe_machine,
    format_table,
    number,
    write_weights,
)

WARM_UPS = 2
KINDS = {
    "forward": "forward",
    "step": "step, all layers",
    "step_conv5": "step, from:conv5",
}
STEP_PASSES = 3
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
LABELS = {"without oneDNN": "0", "with oneDNN": "1"}

_PRINT_CHOICE = """
import sys
if sys.argv[1] == "keras_ft":
    from keras_ft.host.startup import import_tensorflow
    import_tensorflow()
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""


_PRINT_MULTIPLY_ADDS = """
import sys
from tensorflow_steps import count_multiply_adds
print(count_multiply_adds(int(sys.argv[1])))
"""


def ask_python(code: str, argument: object) -> str:
    """Runs code in a process of its own, without the user's choice of oneDNN.

    Returns:
        The last word that it prints.
    """
    environment = child_environment()
    environment.pop(ONEDNN, None)
    output = subprocess.check_output(
        [sys.executable, "-c", code, str(argument)],
        cwd=Path(__file__).parent,
        env=environment,
        text=True,
    )
    return output.split()[-1]


def find_choice(program: str) -> str:
    """Whether `tensorflow` by itself, or `keras_ft`, uses oneDNN on this machine."""
    uses = ask_python(_PRINT_CHOICE, program) == "True"
    return "with oneDNN" if uses else "without oneDNN"


@contextlib.contextmanager
def start_process(
    script: str, flags: list[str], environment: dict[str, str]
) -> Iterator[Iterator[Seconds]]:
    """Starts a script that times a round for each line it is sent.

    Returns:
        Its rounds, each measured when it is asked for.
    """
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name(script), *flags],
        env=child_environment() | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask() -> Iterator[Seconds]:
            while True:
                print("next", file=process.stdin, flush=True)
                yield json.loads(process.stdout.readline())

        yield ask()


def measure(args: argparse.Namespace, weights: Path) -> dict[str, list[Seconds]]:
    """Rounds by process, which take turns."""
    names = ("image_size", "batch_size", "roof_size")
    sizes = [f"--{name}={getattr(args, name)}" for name in names]
    with contextlib.ExitStack() as stack:
        processes = {
            label: stack.enter_context(
                start_process(
                    "tensorflow_steps.py",
                    [f"--weights={weights}", *sizes],
                    {ONEDNN: value},
                )
            )
            for label, value in LABELS.items()
        }
        if importlib.util.find_spec("torch"):
            processes["torch"] = stack.enter_context(
                start_process("torch_recipe.py", sizes, {})
            )
        else:
            print("torch is not installed: its rows are left out", file=sys.stderr)
        rounds = {label: [] for label in processes}
        for _ in range(WARM_UPS + args.repeats):
            for label, process in processes.items():
                rounds[label].append(next(process))
    return {label: rows[WARM_UPS:] for label, rows in rounds.items()}


def compute_rates(
    rounds: dict[str, list[Seconds]], args: argparse.Namespace, multiply_adds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds, by process, kind and case.

    They are images per second, those of the kind `roof` in training steps.
    """
    product = args.roof_size**3 / (STEP_PASSES * multiply_adds)  # its worth in images
    return {
        label: {
            kind: {
                name: (product if kind == "roof" else args.batch_size)
                / statistics.median(row[kind][name] for row in rows)
                for name in names
            }
            for kind, names in rows[0].items()
        }
        for label, rows in rounds.items()
    }


def tabulate(rates: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """Images per second."""
    # Row, process, case, and the data type of its roof.
    rows = [
        (f"{name}, {label}", label, name, "float32")
        for label in LABELS
        for name in ("guide", "ours")
    ]
    for dtype in ("float32", "bfloat16"):
        rows.append((f"torch {dtype}", "torch", f"torch {dtype}", f"torch {dtype}"))
    rows += [(f"bfloat16, {label}", label, "", "bfloat16") for label in LABELS]
    table = [["images/s", *KINDS.values(), "roof (matrix product), step"]]
    for title, label, name, dtype in rows:
        if label in rates:
            kinds = rates[label]
            cells = [kinds.get(kind, {}).get(name) for kind in KINDS]
            cells.append(kinds["roof"][dtype])
            table.append([title, *(number(cell, 1) for cell in cells)])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="starter", help="one, as for run.py")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--roof_size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    args = parser.parse_args()

    machine = describe_machine()
    for program in ("tensorflow", "keras_ft"):
        machine[f"{program} chooses"] = find_choice(program)
    print(", ".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="step_rates_") as temporary:
        file = Path(temporary) / "resnet50.weights.h5"
        weights = write_weights("resnet50", args.image_size, args.weights, file)
        rounds = measure(args, weights)
    multiply_adds = int(ask_python(_PRINT_MULTIPLY_ADDS, args.image_size))
    rates = compute_rates(rounds, args, multiply_adds)
    print(f"\n{format_table(tabulate(rates))}")
    if args.output:
        results = {
            "machine": machine,
            "image_size": args.image_size,
            "batch_size": args.batch_size,
            "multiply_adds_per_image": multiply_adds,
            "images_per_second": rates,
            "seconds": rounds,
        }
        args.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
