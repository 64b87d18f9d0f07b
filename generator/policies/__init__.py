"""Ways to make a negative from a normal: one file, one row here and one row in the tests each."""

from generator.policies.base import Policy
from generator.policies.cutpaste import CutPaste, CutPasteConfig
from generator.policies.cutpaste_scar import CutPasteScar, CutPasteScarConfig
from generator.policies.perlin import Perlin, PerlinConfig
from generator.policies.random_scar import RandomScar, RandomScarConfig
from generator.policies.random_swap import RandomSwap, RandomSwapConfig
from generator.policies.saliency_perlin import SaliencyPerlin, SaliencyPerlinConfig
from generator.policies.scar import Scar, ScarConfig
from generator.policies.swap import Swap, SwapConfig

POLICIES: dict[str, type[Policy]] = {
    "swap": Swap,
    "scar": Scar,
    "random-swap": RandomSwap,
    "random-scar": RandomScar,
    "cutpaste": CutPaste,
    "cutpaste-scar": CutPasteScar,
    "perlin": Perlin,
    "saliency-perlin": SaliencyPerlin,
}
CONFIGS: dict[str, type] = {
    "swap": SwapConfig,
    "scar": ScarConfig,
    "random-swap": RandomSwapConfig,
    "random-scar": RandomScarConfig,
    "cutpaste": CutPasteConfig,
    "cutpaste-scar": CutPasteScarConfig,
    "perlin": PerlinConfig,
    "saliency-perlin": SaliencyPerlinConfig,
}
