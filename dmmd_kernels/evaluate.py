"""How good the samples of a run are, and what real data would score.

    python -m dmmd_kernels.evaluate --checkpoint runs/digits --method a_dmmd_e --seeds 3
    python -m dmmd_kernels.evaluate --checkpoint runs/cifar10 --features inception --weights FILE
    python -m dmmd_kernels.evaluate --checkpoint runs/digits --ablation particles

Each row of the table is judged on n samples against the held-out data (half of the training data
where none are held out), in the features of --features:

  fid                Fréchet distance of normal fits
  kid ± deviation    1000 × MMD² with a cubic kernel, over subsets
  cmmd               1000 × MMD² of unit features with a Gaussian kernel of width 10
  is                 inception score, where the extractor has classes
  precision, recall  shares of samples among data and of data among samples
  nearest, 5 %       distance to the nearest training datum, mean and quantile

The row `real` is as many training data against the same held-out ones: the floor. With several
--seeds a row is their mean, and FID is told of each seed. Where there are classes, so is the share
of each among all samples.

Ablations of DMMD, each a table (.json and .txt) and a figure: particles (N_p), nfe (N_s), kernel
(one --checkpoint for each, at several η), training (checkpoints of one run), denoising (the last
two steps); η and η_final are chosen on the first seed and judged on the others.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmmd_kernels.evaluation import ablations, extractors
from dmmd_kernels.evaluation.extractors import EXTRACTORS, ExtractorError
from dmmd_kernels.evaluation.judge import Judge, as_json, as_text, report
from dmmd_kernels.runs.command_line import Parser, given
from dmmd_kernels.runs.openings import OPEN_ERRORS, add_opening, opened, system_of
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import SettingsError, options
from dmmd_kernels.runs.system import System
from dmmd_kernels.systems import SYSTEMS


def _parser(system: System) -> Parser:
    parser = Parser("evaluate", __doc__)
    add_opening(parser)
    add = parser.add_argument
    add("--n", type=int, help="samples to judge; as many as are held out when left out")
    text = "classifier for digits, random for patches, else pixels"
    add("--features", choices=tuple(EXTRACTORS), help=text)
    add("--weights", type=Path, help="of inception (a .safetensors file) or clip (a folder)")
    add("--out", type=Path, help="folder of the results; evaluation in the run's when left out")
    add("--seeds", type=int, help="how many seeds, from --seed on; 1, for ablations 3")
    add("--ablation", choices=tuple(ablations.ABLATIONS), help="see above")
    parser.add_settings(system.drawing)
    return parser


def drawings_of(system: System, asked: dict[str, Any]) -> dict[str, Any]:
    """The variants of a system that have all that is asked for, or leave it open."""
    found = {}
    for name, variant in system.variants.items():
        own = {option.name: getattr(variant, option.name) for option in options(system.drawing)}
        if all(own[key] in (None, value) for key, value in asked.items()):
            found[name] = variant.changed(**asked)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    system = system_of(arguments, SYSTEMS)
    parser = _parser(system)
    try:
        chosen = parser.settings(arguments)
        if len(chosen.checkpoint) > 1 and chosen.ablation not in ("kernel", "training"):
            raise SettingsError("several --checkpoint are for --ablation kernel or training")
        runs = [opened(path, chosen, SYSTEMS) for path in chosen.checkpoint]
        drawings = drawings_of(system, given(chosen, system.drawing))
        for drawing in drawings.values():
            system.evaluations(runs[0].settings, drawing)
        name = chosen.features or extractors.usual(runs[0])
        judge = Judge(runs[0], extractors.make(name, runs[0], chosen.weights), chosen.n)
    except (*OPEN_ERRORS, ExtractorError, ValueError) as error:
        parser.fail(error)
    folder = chosen.out or runs[0].folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if chosen.ablation:
            seeds = range(chosen.seed, chosen.seed + (chosen.seeds or 3))
            asked: Any = system.drawing(**given(chosen, system.drawing))
            ablations.write(folder, chosen.ablation, ablations.Task(runs, judge, asked, seeds))
        else:
            _report(folder, runs[0], judge, drawings, chosen)
    except SettingsError as error:
        parser.fail(error)
    except FloatingPointError as error:
        tqdm.write(str(error), file=sys.stderr)
        return 1
    return 0


def _report(
    folder: Path, run: Run, judge: Judge, drawings: dict[str, Any], chosen: argparse.Namespace
) -> None:
    seeds = range(chosen.seed, chosen.seed + (chosen.seeds or 1))
    found = report(run, judge, drawings, seeds)
    content = json.dumps(as_json(found, judge, seeds), indent=2)
    (folder / "scores.json").write_text(content + "\n")
    if judge.real.ndim == 4:
        from dmmd_kernels.evaluation.figures import beside_nearest

        beside_nearest(folder / "samples.png", found.samples, judge.train)
    tqdm.write(as_text(found))
    tqdm.write(f"scores in features of {judge.extractor.name} are in {folder}")


if __name__ == "__main__":
    sys.exit(main())
