"""What many entries of the registry share: how a part is written down, and where facts come from.

Short names in `sources`:
    Octo: octo-models/octo, octo/data/oxe/oxe_{dataset_configs,standardization_transforms,dataset_mixes}.py.
    OpenVLA: openvla/openvla, prismatic/vla/datasets/rlds/oxe/{configs,transforms,mixtures}.py.
    LeRobot: huggingface/lerobot (2024), lerobot/common/datasets/push_dataset_to_hub/openx.
    HMA: liruiw/HMA, datasets/encode_openx_dataset.py.
    RDT: thu-ml/RoboticsDiffusionTransformer, data/preprocess_scripts and configs/dataset_control_freq.json.
    iVideoGPT: thuml/iVideoGPT, datasets/oxe_data_converter.py and ivideogpt/data/dataset_mixes.py.
    rlds_dataset_mod: kpertsch/rlds_dataset_mod, prepare_open_x.sh.
"""

from whale.data_prep.oxe.spec import Part

TO_RLDS = "_converted_externally_to_rlds"
DATASET_TO_RLDS = "_dataset_converted_externally_to_rlds"
"""Endings of names of datasets that labs converted themselves."""
SAID = "observation/natural_language_instruction"
"""Where the older datasets keep the instruction."""

CATALOGUE = "Features and version: the TFDS catalogue (tensorflow/datasets, docs/catalog)."
INVENTORY = "felixmin/high-level-robot-planner, docs/openx_local_dataset_inventory.md"
"""A third party's listing of the features, versions and episodes that the bucket's dataset_info.json tell."""
RATE = "Rate: LeRobot's openx/configs.yaml (2024); HMA and RDT give the same where they list the set."
LOADERS = ("Cameras and gripper: oxe_dataset_configs.py and oxe_standardization_transforms.py of Octo, "
"rlds/oxe/configs.py and transforms.py of OpenVLA.")
KINEMATICS = (
    "Motion is the reached one, by forward kinematics of the recorded joints of the Franka, which need no unit and no "
    "axes to be guessed. The recorded command does: ")
CONTROLLER_UNITS = (
    "it is what a space mouse gave the controller, from -1 to 1, and no number of metres: so for austin_buds in the "
    "statistics of openvla-7b (as repeated in config.json of shylee/bridge_oft2 on Hugging Face); for the others from "
    "memory.")
REACHED = "Motion is the reached one, from the recorded poses: "
SHORT_OF_COMMAND = "the command's unit, axes or kind (absolute or difference) are not published, or loaders disagree."

MIT = "MIT (by LeRobot's copy: lerobot/common/datasets/v2/batch_convert_dataset_v1_to_v2.py)"
CC_BY = "CC BY 4.0 (by LeRobot's copy: lerobot/common/datasets/v2/batch_convert_dataset_v1_to_v2.py)"
COLLECTION = "CC BY 4.0 (the terms of the Open X-Embodiment collection; the makers' own are to be checked)"


def cols(key: str, first: int = 0, size: int | None = None) -> Part:
    """Columns `first` to `first + size` of a feature; all from `first` on without a size."""
    return Part(key=key, first=first, size=size)
