"""What many entries of the registry share: how a part is written down, and where facts come from."""

from whale.data_prep.oxe.spec import Part

TO_RLDS = "_converted_externally_to_rlds"
DATASET_TO_RLDS = "_dataset_converted_externally_to_rlds"
"""Endings of names of datasets that labs converted themselves."""
SAID = "observation/natural_language_instruction"
"""Where the older datasets keep the instruction."""

CATALOGUE = "Features and version: the TFDS catalogue (tensorflow/datasets, docs/catalog)."
RATE = "Rate: LeRobot's openx/configs.yaml (2024); HMA and RDT give the same."
LOADERS = ("Cameras and gripper: oxe_dataset_configs.py and oxe_standardization_transforms.py of Octo, "
"rlds/oxe/transforms.py of OpenVLA.")
KINEMATICS = (
    "Motion is the reached one, by forward kinematics of the recorded joints of the Franka, which need no unit and no "
    "axes to be guessed. The recorded command does: ")
CONTROLLER_UNITS = (
    "it is what a space mouse gave the controller, about -1 to 1 (statistics that OpenVLA and others publish), and no "
    "number of metres.")
REACHED = "Motion is the reached one, from the recorded poses: "
SHORT_OF_COMMAND = "the command's unit, axes or kind (absolute or difference) are not published, or loaders disagree."

MIT = "MIT (by the copy of it that LeRobot publishes)"
CC_BY = "CC BY 4.0 (by the copy of it that LeRobot publishes)"
COLLECTION = "CC BY 4.0 (the terms of the Open X-Embodiment collection; the makers' own are to be checked)"


def cols(key: str, first: int = 0, size: int | None = None) -> Part:
    """Columns `first` to `first + size` of a feature; all from `first` on without a size."""
    return Part(key=key, first=first, size=size)
