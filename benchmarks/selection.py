"""How often does a rule of selection choose the worse phase, if val is small?

Trains both phases once, as `run.py` does with the flags after `--`, and then draws val
many times from its images. Each time, every rule chooses a phase by the drawn images,
and the phase that is more accurate on test is the right one:

- `always`: phase finetune, whatever val says;
- `-1 standard errors`: phase finetune unless it is worse on val by more than the
  standard error of the difference, as the program does;
- `0 standard errors`: if it is better on val at all;
- `N standard errors`: if it is better by more than that.

    python benchmarks/selection.py --sizes=50,100 -- --data=FOLDER --weights=starter
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import format_table

DRAWS = 200
ERRORS = (-2, -1, -0.5, 0, 0.5, 1, 2)


def train_both(flags: list[str], folder: Path) -> tuple[list, list, object, object]:
    """Trains; returns both phases, the examples, the monitor and weights of tasks."""
    from keras_ft.config.flags import parse
    from keras_ft.evaluation.monitor import MONITORS
    from keras_ft.jobs.train import train
    from keras_ft.training import phases

    noted, judge = [], phases.judge

    def note(run, result, earlier, examples):
        noted.append((run, result, examples))
        return judge(run, result, earlier, examples)

    phases.judge = note
    fixed = [f"--workdir={folder / 'run'}", "--export_formats=", "--report=false"]
    try:
        train(parse(["selection", *flags, *fixed]))
    finally:
        phases.judge = judge
    run, _, examples = noted[0]
    if len(noted) != 2:
        raise SystemExit("Both phases must be trained.")
    monitor = MONITORS[run.recipe.selection.monitor]
    weights = run.recipe.train.weigh(task.name for task in examples.tasks)
    return [result for _, result, _ in noted], examples, monitor, weights


def draw_val(results: list, examples, rows: np.ndarray) -> tuple[list, object]:
    """The results and examples as if val had these of its images, calibrated anew."""
    from keras_ft.training.phase_result import calibrate

    val = examples.val.take(rows)
    drawn = []
    for result in results:
        of_val = {task: p[rows] for task, p in result.probabilities["val"].items()}
        probabilities = result.probabilities | {"val": of_val}
        calibrated = calibrate(val, probabilities)
        drawn.append(
            dataclasses.replace(
                result, probabilities=probabilities, calibrated=calibrated
            )
        )
    return drawn, val


def measure(flags: list[str], sizes: list[int]) -> dict:
    """By size of val and rule: how often the worse phase was chosen, and accuracy."""
    from keras_ft.kinds.measure import average, summarize
    from keras_ft.training.gain import compare

    with tempfile.TemporaryDirectory() as folder:
        results, examples, monitor, weights = train_both(flags, Path(folder))
    accuracies = []
    for result in results:
        by_task = {
            task.name: summarize(task, target, result.probabilities["test"][task.name])
            for task, target in zip(examples.tasks, examples.test.targets, strict=True)
        }
        accuracies.append(average(by_task, weights)["accuracy"])
    rng, table = np.random.default_rng(0), {}
    for size in sizes:
        gains = []
        for _ in range(DRAWS):
            rows = np.sort(rng.choice(len(examples.val), size))
            drawn, val = draw_val(results, examples, rows)
            after = compare(drawn[1], drawn[0], val, monitor, weights)
            gains.append((after.gain, after.standard_error))
        gain, error = np.transpose(gains)
        rules = {"always": np.ones(DRAWS, bool)}
        rules |= {f"{n:g} standard errors": gain > n * error for n in ERRORS}
        for rule, is_second in rules.items():
            chosen = np.where(is_second, accuracies[1], accuracies[0])
            table[f"{size}, {rule}"] = {
                "worse": float(np.mean(chosen < max(accuracies))),
                "accuracy": float(chosen.mean()),
            }
    return {"head": accuracies[0], "finetune": accuracies[1], "rules": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--sizes", default="50,100", help="images of val that are drawn"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    found = measure(flags, [int(size) for size in options.sizes.split(",")])
    print(f"Test accuracy: head {found['head']:.3f}, finetune {found['finetune']:.3f}")
    header = ["images of val, rule", "worse phase chosen", "test accuracy"]
    rows = [
        [name, f"{row['worse']:.1%}", f"{row['accuracy']:.3f}"]
        for name, row in found["rules"].items()
    ]
    print(format_table([header, *rows]))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
