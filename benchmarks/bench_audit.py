"""How many planted faults the audit finds, called by their right names, and how often it cries wolf on clean datasets.

`faults_found` counts faults of planted_faults.py, one in each generated dataset; a fault is found when a warning or a
hard finding names its kind and its place. `false_alarms` counts clean datasets with any warning or hard finding.
"""

from collections import Counter

from planted_faults import FAULTS, Fault, alarms, clean, is_found, look_at
from record import parser, publish

from whale.eval.results import Figure


def main() -> None:
    """Look at every dataset, and publish the two counts."""
    flags = parser(__doc__).parse_args()
    faults, worlds = (FAULTS[::4], clean()[::4]) if flags.quick else (FAULTS, clean())
    missed = [str(fault) for fault in faults if not is_found(fault, look_at(fault))]
    wrong = {str(world): [one.kind for one in found] for world in worlds
             if (found := alarms(look_at(Fault("", "", lambda _: None, world=world))))}
    found = float(len(faults) - len(missed))
    figures = [
        Figure("faults_found", found, found, found, "faults", len(faults), {"at_least": len(faults) - 1}),
        Figure("false_alarms", len(wrong), len(wrong), len(wrong), "datasets", len(worlds), {"at_most": 0}),
    ]
    kinds = dict(Counter(fault.kind for fault in faults))
    publish("audit", figures, {"planted": kinds, "missed": missed, "alarms": wrong}, flags.out)


if __name__ == "__main__":
    main()
