"""Arrays in, findings out: what a network's kernels say about it. Nothing is drawn here."""

from ntkit.diagnose.drift import Drift as Drift
from ntkit.diagnose.drift import alignment as alignment
from ntkit.diagnose.drift import drift as drift
from ntkit.diagnose.features import FeatureStudy as FeatureStudy
from ntkit.diagnose.features import feature_study as feature_study
from ntkit.diagnose.frequencies import FrequencyStudy as FrequencyStudy
from ntkit.diagnose.frequencies import frequency_study as frequency_study
from ntkit.diagnose.rates import Rate as Rate
from ntkit.diagnose.training import Distances as Distances
from ntkit.diagnose.training import TrainingStudy as TrainingStudy
from ntkit.diagnose.training import compare_training as compare_training
from ntkit.diagnose.widths import Distribution as Distribution
from ntkit.diagnose.widths import WidthStudy as WidthStudy
from ntkit.diagnose.widths import width_study as width_study
