# What `import cutswap` gives, for type checkers: a single module cannot carry a py.typed.
from detector.config import FitConfig as FitConfig
from detector.default_config import default_config as default_config
from detector.inspection import inspect_image as inspect_image
from detector.min_area import MinArea as MinArea
from detector.model import load_model as load_model
from detector.pipeline import evaluate_models as evaluate_models
from detector.pipeline import fit_model as fit_model
from detector.scoring import score_images as score_images
from detector.shard_dataset import ShardDataset as ShardDataset
from detector.verify_model import verify_model as verify_model
from generator.config import BuildConfig as BuildConfig
from generator.export_images import export_images as export_images
from generator.merge import merge_sets as merge_sets
from generator.pipeline import build_set as build_set
from generator.replay import replay_set as replay_set
from generator.set_diff import diff_sets as diff_sets
from generator.subset import subset_set as subset_set
from generator.textures import Textures as Textures
from manifests.datasets import open_data as open_data
from manifests.errors import CutswapError as CutswapError
from manifests.images import Geometry as Geometry
from manifests.images import fit_image as fit_image
from manifests.images import read_image as read_image
from manifests.images import restore_map as restore_map
from manifests.images import restore_mask as restore_mask
from manifests.negative_set import NegativeSet as NegativeSet
from manifests.recipe import read_recipe as read_recipe
from manifests.recipe import write_recipe as write_recipe
from manifests.remote import pull_set as pull_set
from manifests.remote import push_set as push_set
from manifests.roi import read_roi as read_roi
from manifests.set_folders import find_sets as find_sets
from manifests.verify import verify_set as verify_set

__version__: str
