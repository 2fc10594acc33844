"""recjax turns a large recommender (teacher) into a small fast one (student).

Distillation, pruning and quantization are pure functions of arrays; a grid of students is one compiled program. Rooms:
:mod:`recjax.data`, :mod:`recjax.models`, :mod:`recjax.losses`, :mod:`recjax.metrics`, :mod:`recjax.teacher`,
:mod:`recjax.embed`, :mod:`recjax.quantize`, :mod:`recjax.prune`, :mod:`recjax.compress`, :mod:`recjax.train`,
:mod:`recjax.grid`, :mod:`recjax.evaluate`, :mod:`recjax.checkpoint`, :mod:`recjax.artifact`, :mod:`recjax.pipeline`,
:mod:`recjax.report` and the command line :mod:`recjax.cli`.
"""
