"""Slow twins of every loss, metric, sampler, quantizer and mask, written from the papers and not from the code."""

from .clicks import *  # noqa: F403
from .compression import *  # noqa: F403
from .features import *  # noqa: F403
from .losses import *  # noqa: F403
from .metrics import *  # noqa: F403
from .pruning import *  # noqa: F403
from .quantize_calibrate import *  # noqa: F403
from .quantize_core import *  # noqa: F403
from .quantize_learned import *  # noqa: F403
from .quantize_mixed import *  # noqa: F403
from .ranking import *  # noqa: F403
from .samplers import *  # noqa: F403
from .sequences import *  # noqa: F403
