"""How much of the gap between two domains DANN and the baselines close, on pairs made by simulated re-recording.

    python benchmarks/transfer.py                    # demo, mild and strong
    python benchmarks/transfer.py --dataset esc10 --data_dir path/to/ESC-50

For each strength: accuracy on the target's test part, and the share of the gap between the source alone and labels of
the target that each system closes, over seeds, with 95 % intervals; processor time is of one seed, with re-recording
and features where the cache has none. Settings of DANN were chosen on other pairs: see docs/transfer.md.
"""

from __future__ import annotations

import time

from _common import parser  # isort: skip  (first: makes src importable)

from soundstack.config.transfer import TransferConfig
from soundstack.transfer import experiment
from soundstack.transfer.pairs import pairs
from soundstack.utils import devices


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, seeds=(3, "of halves, rooms, microphones and training"))
    command.add_argument("--dataset", default="demo")
    command.add_argument("--data_dir", default="auto")
    command.add_argument("--cache_dir", default="cache")
    command.add_argument("--network", default="efficientnet_lite0")
    command.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0])
    command.add_argument("--seed", type=int, default=0, help="the first one")
    given = vars(command.parse_args())
    strengths, _ = given.pop("strengths"), given.pop("json")
    for strength in strengths:
        config = TransferConfig.model_validate(given | {"strength": strength})
        device, started = devices.choose(config.device), time.process_time()
        comparison = experiment.run(pairs(config, device), config, device).comparison
        seconds = (time.process_time() - started) / config.seeds
        print(f"{config.dataset}, {config.network}, strength {strength}, {seconds:.0f} s a seed\n")
        rows = comparison.frame().to_numpy().tolist()
        lines = [comparison.frame().columns.tolist(), [":--", *["--:"] * (len(rows[0]) - 1)], *rows]
        print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        print("\n" + "\n".join(comparison.said()) + "\n", flush=True)


if __name__ == "__main__":
    main()
