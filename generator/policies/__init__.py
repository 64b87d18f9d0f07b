"""Ways to make a negative from a normal: one file, one row here and one row in the tests each."""

from generator.policies.scar import Scar, ScarConfig
from generator.policies.swap import Swap, SwapConfig

POLICIES = {"swap": Swap, "scar": Scar}
CONFIGS = {"swap": SwapConfig, "scar": ScarConfig}
