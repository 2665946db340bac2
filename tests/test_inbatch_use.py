"""The in-batch losses inside torch's machinery, and what they say of bad calls."""

import pytest
import torch
from backends import each_inbatch_backend as each_backend
from batch_cases import LOSSES, Batch, batch_of, each_loss
from messages import message_of
from recorder import Recorder, compiled
from runnable import numbered
from torch.func import grad, jvp, vmap

import mtlfast.functional as MF
from mtlfast.ops import inbatch, native

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch.compile does so itself while it traces.
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
]
native_only = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
compiles = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not run on this Python"
)
each_of_some = pytest.mark.parametrize("loss", [LOSSES[i] for i in (0, 5, 15)], ids=str)


@native_only
def test_op_passes_opcheck():
    batch = batch_of("reference set").to(torch.float32)
    for tensors, dtype in (((*batch[:2], None, None), torch.bfloat16), (batch, torch.float32)):
        given = Batch(*tensors).to(dtype)
        operands = (given.embeddings, given.labels, given.ref_embeddings, given.ref_labels)
        for loss, params in (
            ("batch_triplet_loss", [0.0, 0.2, 0.0, 0.0]),
            ("batch_contrastive_loss", [0.0, 1.0, 0.0]),
        ):
            for needs in ((True, given.ref_embeddings is not None), (False, False)):
                number, params, reduction = numbered(loss, params, "nonzero")
                settings = (number, params, True, reduction, "native", *needs)
                torch.library.opcheck(inbatch.forward, (*operands, *settings))


@compiles
@native_only
@each_of_some
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_graph_holds_the_op_and_gives_eager_numbers(loss, dynamic):
    torch.compiler.reset()
    recorder = Recorder()
    step = compiled(lambda batch: 2 * loss(batch), recorder, dynamic=dynamic)
    for rows in (17, 23, 31) if dynamic else (23,):
        x, labels = batch_of("classes").to(torch.float32)[:2]
        for batch in (Batch(x[:rows], labels[:rows]), Batch(x[:rows], labels[:rows, None] == 1)):
            leaf = batch.embeddings.clone().requires_grad_()
            # First, so that the choice of the backend is known: a guard of the graph holds it.
            expected = batch.gradients(lambda *given, **_: 2 * loss(*given))
            value = step(batch._replace(embeddings=leaf))
            torch.testing.assert_close(
                [value.detach(), *torch.autograd.grad(value, leaf)], expected
            )
    calls = [sum("mtlfast_inbatch.forward" in call for call in graph) for graph in recorder.forward]
    assert calls == [1, 1]  # classes, multi-hot
    torch.compiler.reset()


@each_backend
@each_of_some
def test_torch_func_and_double_backward_take_the_reference(loss, backend):
    batch = batch_of("classes").to(torch.float32, backend.device)
    _, expected = batch.gradients(loss, backend=backend.name)

    def function(x):
        return loss(batch._replace(embeddings=x), backend=backend.name)

    torch.testing.assert_close(grad(function)(batch.embeddings), expected)
    tangent = torch.ones_like(expected)
    _, slope = jvp(function, (batch.embeddings,), (tangent,))
    torch.testing.assert_close(slope, expected.sum(), rtol=1e-4, atol=1e-5)
    several = torch.stack([batch.embeddings, batch.embeddings.flip(0)])
    alone = torch.stack([function(x) for x in several])
    torch.testing.assert_close(vmap(function)(several), alone)
    penalties = []
    for name in (backend.name, "reference"):
        leaf = batch.embeddings.clone().requires_grad_()
        value = loss(batch._replace(embeddings=leaf), backend=name)
        (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
        penalties.append(torch.autograd.grad((slope**2).sum() + value, leaf)[0])
    torch.testing.assert_close(*penalties, rtol=1e-4, atol=1e-5)


X, LABELS = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
BAD = {
    "one row, flat": (lambda f: f(X[0], LABELS), ValueError, r"\(N, D\), D at least 1; got \(3,\)"),
    "no width": (
        lambda f: f(X[:, :0], LABELS),
        ValueError,
        r"\(N, D\), D at least 1; got \(4, 0\)",
    ),
    "integers": (lambda f: f(X.long(), LABELS), TypeError, r"embeddings must be float32.*int64"),
    "a list": (lambda f: f([[1.0]], LABELS), TypeError, r"embeddings must be a Tensor; got list"),
    "no labels": (lambda f: f(X, None), TypeError, r"labels must be a Tensor; got NoneType"),
    "labels too short": (
        lambda f: f(X, LABELS[:3]),
        ValueError,
        r"labels must have shape \(4,\), or \(4, L\) if multi-hot; got \(3,\)",
    ),
    "labels of three dimensions": (
        lambda f: f(X, LABELS[:, None, None]),
        ValueError,
        r"labels must have shape \(4,\), or \(4, L\) if multi-hot; got \(4, 1, 1\)",
    ),
    "floating labels": (
        lambda f: f(X, LABELS.float()),
        TypeError,
        r"labels must be integers or bool; got torch.float32: call labels.long\(\) first",
    ),
    "labels elsewhere": (
        lambda f: f(X, LABELS.to("meta")),
        ValueError,
        r"labels must be on the device of embeddings, cpu; got meta: call labels.to\('cpu'\)",
    ),
    "sparse": (lambda f: f(X.to_sparse(), LABELS), ValueError, r"must be dense.*to_dense\(\)"),
    "reference set without labels": (
        lambda f: f(X, LABELS, ref_embeddings=X),
        ValueError,
        r"ref_embeddings needs ref_labels; got None",
    ),
    "reference labels alone": (
        lambda f: f(X, LABELS, ref_labels=LABELS),
        ValueError,
        r"ref_labels needs ref_embeddings; got None",
    ),
    "reference set of another width": (
        lambda f: f(X, LABELS, ref_embeddings=X[:, :2], ref_labels=LABELS),
        ValueError,
        r"ref_embeddings must be as wide as embeddings, \(M, 3\); got \(4, 2\)",
    ),
    "reference labels of another kind": (
        lambda f: f(X, LABELS, ref_embeddings=X, ref_labels=LABELS[:, None]),
        ValueError,
        r"ref_labels must be like labels, \(M,\); got \(4, 1\)",
    ),
    "labels as a column": (
        lambda f: f(X, LABELS[:, None]),
        ValueError,
        r"labels must have shape \(4,\); got \(4, 1\), which is one label that all rows share: "
        r"call labels.squeeze\(1\) first",
    ),
    "reference labels too short": (
        lambda f: f(X, LABELS, ref_embeddings=X, ref_labels=LABELS[:2]),
        ValueError,
        r"ref_labels must have shape \(4,\), or \(4, L\) if multi-hot; got \(2,\)",
    ),
    "unknown reduction": (
        lambda f: f(X, LABELS, reduction="none"),
        ValueError,
        r"reduction must be one of nonzero, mean, sum; got 'none'",
    ),
    "unknown backend": (
        lambda f: f(X, LABELS, backend="fast"),
        ValueError,
        r"backend must be one of auto, native, triton, reference; got 'fast'",
    ),
    "margin of text": (
        lambda f: f(X, LABELS, "wide"),
        TypeError,
        r"margin must be a number; got 'wide'",
    ),
    "margin NaN": (lambda f: f(X, LABELS, float("nan")), ValueError, r"margin must be in .*nan"),
}
FUNCTIONS = (MF.batch_triplet_loss, MF.batch_contrastive_loss)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_bad_calls_say_what_is_wrong(name, function):
    call, kind, pattern = BAD[name]
    message_of(lambda: call(function), kind, pattern)


def test_unknown_mining_is_named():
    pattern = r"mining must be one of all, hard, semihard; got 'easy'"
    message_of(lambda: MF.batch_triplet_loss(X, LABELS, mining="easy"), ValueError, pattern)


@each_loss
def test_negative_labels_are_labels(loss):
    batch = batch_of("classes").to(torch.float32)
    assert torch.equal(loss(batch), loss(batch._replace(labels=batch.labels - 3)))
