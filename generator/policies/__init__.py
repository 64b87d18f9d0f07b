"""Ways to make a negative from a normal: one file, one row here and one row in the tests each."""

from generator.policies.cutpaste import CutPaste, CutPasteConfig
from generator.policies.cutpaste_scar import CutPasteScar, CutPasteScarConfig
from generator.policies.random_scar import RandomScar, RandomScarConfig
from generator.policies.random_swap import RandomSwap, RandomSwapConfig
from generator.policies.scar import Scar, ScarConfig
from generator.policies.swap import Swap, SwapConfig

POLICIES = {
    "swap": Swap,
    "scar": Scar,
    "random-swap": RandomSwap,
    "random-scar": RandomScar,
    "cutpaste": CutPaste,
    "cutpaste-scar": CutPasteScar,
}
CONFIGS = {
    "swap": SwapConfig,
    "scar": ScarConfig,
    "random-swap": RandomSwapConfig,
    "random-scar": RandomScarConfig,
    "cutpaste": CutPasteConfig,
    "cutpaste-scar": CutPasteScarConfig,
}
