"""The article's student, 10-32-10 in batches of 64, taught by scores: 1, 8, 64 and 512 members at once.

    python -m benchmarks grid_mlp --json benchmarks/results/grid_mlp.json

A member has its own learning rate, alpha and temperature; all see the same batches. Its loss is the article's, alpha KL
plus (1 - alpha) CE with the teacher's probabilities, its optimizer plain SGD; the teacher's scores are computed once
for all rows, here and by the peers. Ours is ``train.run_chunk``, members spread over one JAX device a core. The peers:

    PyTorch loop   one member after the other, autograd and ``torch.optim.SGD``
    torch.func     ``vmap`` of ``grad`` of ``functional_call`` over stacked parameters, SGD by hand
    JAX loop       ``train.step`` of one member, jitted, called from Python

Two cores; two minutes. The bar beside torch.func is missed: its batched products of 64 members keep both cores busy
too, so what is left to gain is what a step costs around them: the more members, the smaller a share.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._population import chunks
from benchmarks.measure import compare
from recjax import compress, losses, train
from recjax.machine import one_device_per_core
from recjax.models.mlp import Mlp, mlp

ROWS, FEATURES, CLASSES, BATCH = 1000, 10, 10, 64
SIZES = (1, 8, 64, 512)
STUDENT = mlp(Mlp(widths=(FEATURES, 32, CLASSES)))
BARS = {(64, "PyTorch loop"): 50.0, (64, "torch.func"): 8.0}  # of issue 5, on two cores


class Hparams(NamedTuple):
    """What the members differ in."""

    learning_rate: Any
    alpha: Any
    temperature: Any


def members(count: int) -> Hparams:
    """So many settings, ``[members]`` each."""
    return Hparams(*(jnp.linspace(*ends, count) for ends in ((0.01, 0.1), (0.1, 0.9), (1.0, 4.0))))


def _loss(params: Any, batch: dict[str, jax.Array], hparams: Hparams, key: jax.Array) -> jax.Array:
    logits, teacher = STUDENT.logit(params, batch), batch["teacher"]
    return losses.distillation(
        logits, teacher, jax.nn.softmax(teacher), alpha=hparams.alpha, temperature=hparams.temperature
    ).mean()


RECIPE = train.Recipe(
    loss=_loss,
    optimizer=lambda hparams: optax.sgd(hparams.learning_rate),
    transform=compress.chain(),
    gather=lambda data, ids, key: {name: rows[ids] for name, rows in data.items()},
)


def jax_loop(params: Any, hparams: Hparams, data: dict[str, jax.Array], ids: jax.Array) -> Callable[[], list[float]]:
    """One member's steps, each a call of a jitted function; ``hparams`` are scalars."""
    step = jax.jit(
        lambda state, ids: train.step(RECIPE, state, hparams, RECIPE.gather(data, ids, state.key), {}), donate_argnums=0
    )
    start = train.init_state(RECIPE, params, hparams, jax.random.key(1))
    kept, batches = [jax.tree.map(jnp.copy, start)], list(ids)

    def run() -> list[float]:
        found = []
        for rows in batches:
            kept[0], loss = step(kept[0], rows)
            found.append(loss)
        return [float(loss) for loss in jax.block_until_ready(found)]

    return run


def torch_model(params: Any) -> Any:
    """The same student in PyTorch, from the same start."""
    import torch

    hidden, output = params["net"]["hidden_0"], params["net"]["output"]
    inputs, width = hidden["kernel"].shape
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs, width), torch.nn.ReLU(), torch.nn.Linear(width, output["kernel"].shape[1])
    )
    with torch.no_grad():
        for layer, values in ((model[0], hidden), (model[2], output)):
            layer.weight.copy_(torch.from_numpy(np.array(values["kernel"].T)))
            layer.bias.copy_(torch.from_numpy(np.array(values["bias"])))
    return model


def torch_loss(student: Any, teacher: Any, alpha: Any, temperature: Any) -> Any:
    """The same loss in PyTorch."""
    from torch.nn import functional

    cross_entropy = -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
    kl = functional.kl_div(
        (student / temperature).log_softmax(-1),
        (teacher / temperature).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - alpha) * cross_entropy + alpha * temperature**2 * kl


def torch_loop(params: Any, hparams: Hparams, data: dict[str, jax.Array], ids: jax.Array) -> Callable[[], list[float]]:
    """One member's steps in PyTorch as everybody writes them; ``hparams`` are scalars."""
    import torch

    model = torch_model(params)
    rate, alpha, temperature = (float(x) for x in hparams)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    inputs, teacher = (torch.from_numpy(np.array(data[name])) for name in ("inputs", "teacher"))
    batches = torch.from_numpy(np.array(ids)).long()

    def run() -> list[float]:
        found = []
        for rows in batches:
            optimizer.zero_grad()
            loss = torch_loss(model(inputs[rows]), teacher[rows], alpha, temperature)
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return [float(loss) for loss in found]

    return run


def torch_func(params: Any, hparams: Hparams, data: dict[str, jax.Array], ids: jax.Array) -> Callable[[], np.ndarray]:
    """All members' steps in PyTorch by ``torch.func``; ``hparams`` are ``[members]``."""
    import torch

    model = torch_model(params)
    rate, alpha, temperature = (torch.from_numpy(np.array(x)) for x in hparams)
    kept = [{name: torch.stack([x.detach()] * len(rate)) for name, x in model.named_parameters()}]
    inputs, teacher = (torch.from_numpy(np.array(data[name])) for name in ("inputs", "teacher"))
    batches = torch.from_numpy(np.array(ids)).long()

    def loss(params: Any, x: Any, scores: Any, alpha: Any, temperature: Any) -> Any:
        return torch_loss(torch.func.functional_call(model, params, (x,)), scores, alpha, temperature)

    step = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(0, None, None, 0, 0))

    def run() -> np.ndarray:
        found = []
        for rows in batches:
            grads, values = step(kept[0], inputs[rows], teacher[rows], alpha, temperature)
            kept[0] = {name: x - rate.reshape(-1, *[1] * (x.ndim - 1)) * grads[name] for name, x in kept[0].items()}
            found.append(values)
        return torch.stack(found).numpy()

    return run


def run(sizes: tuple[int, ...] = SIZES, steps: int = 256, repeats: int = 9) -> list[dict[str, Any]]:
    """Ours beside each peer at each size, checked to give the same losses."""
    one_device_per_core()
    keys = jax.random.split(jax.random.key(0), 4)
    data = {
        "inputs": jax.random.normal(keys[0], (ROWS, FEATURES)),
        "teacher": jax.random.normal(keys[1], (ROWS, CLASSES)),
    }
    ids = jax.random.randint(keys[2], (steps, BATCH), 0, ROWS)
    params = jax.jit(STUDENT.init)(keys[3])
    rows = []
    for count in sizes:
        hparams = members(count)
        first = jax.tree.map(lambda x: x[0], hparams)
        few = ids[: max(2, min(steps, 8192 // count))]  # a peer's chunk takes about as long as ours
        peers = (
            ("PyTorch loop", "torch", torch_loop(params, first, data, ids), steps),
            ("torch.func", "torch", torch_func(params, hparams, data, few), count * len(few)),
            ("JAX loop", "jax", jax_loop(params, first, data, ids), steps),
        )
        found = chunks(RECIPE, params, hparams, data, ids)()
        np.testing.assert_allclose(found[:, 0], peers[0][2](), rtol=1e-3)
        np.testing.assert_allclose(found[: len(few)], peers[1][2](), rtol=1e-3)
        np.testing.assert_allclose(found[:, 0], peers[2][2](), rtol=1e-3)
        for name, package, theirs, done in peers:
            rows.append(
                compare(
                    "grid_mlp",
                    f"10-32-10, batch {BATCH}",
                    chunks(RECIPE, params, hparams, data, ids),
                    theirs,
                    peer=name,
                    package=package,
                    repeats=repeats,
                    work=(count * steps, done),
                    unit="student-steps/s",
                    members=count,
                    bar=BARS.get((count, name)),
                )
            )
    return rows
