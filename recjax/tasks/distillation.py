"""Distillation of retrieval models: every method, and what it needs of a teacher."""

from collections.abc import Callable
from typing import Any

from recjax import teacher as teachers
from recjax.data import Dataset
from recjax.errors import InputError
from recjax.families import Model
from recjax.study import Method
from recjax.tasks._lists import cd, cl_drd, dcd, ir_rrd, rd, rrd, unkd
from recjax.tasks._scores import dkd, margin_mse, rce_kd, soft_targets
from recjax.tasks._vectors import de, freqd, ftd, hint, htd, info_nce
from recjax.teacher import Knowledge

# Every method of the task, from a data set and a student; the choices of the command line are these names.
METHODS: dict[str, Callable[[Dataset, Model], Method]] = {
    "soft-targets": soft_targets,
    "margin-mse": margin_mse,
    "dkd": dkd,
    "rce-kd": rce_kd,
    "rd": rd,
    "cd": cd,
    "rrd": rrd,
    "ir-rrd": ir_rrd,
    "dcd": dcd,
    "unkd": unkd,
    "cl-drd": cl_drd,
    "hint": hint,
    "info-nce": info_nce,
    "de": de,
    "ftd": ftd,
    "htd": htd,
    "freqd": freqd,
}


def teach(teacher: Model, params: Any, dataset: Dataset, student: Model, method: str) -> Knowledge:
    """A teacher's knowledge for a method of :data:`METHODS`.

    Args:
      teacher: any model of :mod:`recjax.families`.
      params: its parameters.
      dataset: what both are of.
      student: whose queries they are.
      method: a name of :data:`METHODS`.

    Returns:
      The :class:`~recjax.teacher.Knowledge`.

    Raises:
      InputError: if the method needs hidden activations and the teacher has none.
    """
    found = METHODS[method](dataset, student)
    check_needs(found, teacher, method)
    return outputs(teacher, params, dataset, student, found)


def check_needs(method: Method, teacher: Model, name: str) -> None:
    """Raises ``InputError`` if a method needs hidden activations and the teacher has none."""
    if method.needs.vectors and teacher.vectors is None:
        expected = f"expected a teacher with hidden activations for {name}"
        raise InputError(f"option --distill: {expected}, got one without: a closed form, an ensemble or a file")


def outputs(teacher: Model, params: Any, dataset: Dataset, student: Model, method: Method) -> Knowledge:
    """A teacher's knowledge for any method.

    Args:
      teacher: see :func:`teach`; with ``vectors`` where the method needs them.
      params: see there.
      dataset: see there.
      student: see there.
      method: any :class:`~recjax.study.Method`.

    Returns:
      The :class:`~recjax.teacher.Knowledge`.

    Raises:
      ValueError: if the method needs hidden activations and the teacher has none.
    """
    needs, queries, vectors = method.needs, student.queries, (None, None)
    if needs.vectors:
        if teacher.vectors is None:
            raise ValueError("expected a teacher with hidden activations, got one without")
        vectors = teachers.vectors(teacher.vectors, params, dataset, queries, length=teacher.length or 0)
    found = teachers.knowledge(teacher.scorer(params), dataset, queries, length=needs.length, masked=needs.masked)
    return Knowledge(found.scores, found.items, *vectors)
