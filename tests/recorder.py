"""torch.compile, and what it traced."""

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd


class Recorder:
    """A torch.compile backend that runs the traced graphs as they are, and keeps them."""

    def __init__(self):
        self.forward, self.backward = [], []
        self.backend = aot_autograd(
            fw_compiler=self.keeping(self.forward), bw_compiler=self.keeping(self.backward)
        )

    @staticmethod
    def keeping(graphs):
        def compiler(graph, _):
            graphs.append([str(node.target) for node in graph.graph.nodes])
            return make_boxed_func(graph.forward)

        return compiler

    def calls(self, graphs, name):
        return [sum(f"mtlfast.{name}" in target for target in graph) for graph in graphs]


def compiled(function, recorder, **options):
    return torch.compile(function, fullgraph=True, backend=recorder.backend, **options)
