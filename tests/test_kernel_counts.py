"""What GPU kernels issue (benches/kernel_counts.py): loops are found, instructions counted."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import disassembly
import kernel_counts
import pytest
import sass
from counted_kernels import Kernel, of_library

# As cuobjdump prints it: a loop over rows, and in it the loop over elements, which ends in a branch
# with two conditions and has a path for data that are not aligned, and a call for rare labels.
LISTING = """
	code for sm_90
		Function : _Z6kernelPf
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/                   IMAD.MOV.U32 R0, RZ, RZ, RZ ;          /* 0x000000ffff007224 */
        /*0020*/                   BSSY B0, 0x160 ;                       /* 0x0000013000007945 */
        /*0030*/               @P1 BRA 0xf0 ;                             /* 0x0000000000b01947 */
        /*0040*/                   LDG.E.128.CONSTANT R4, desc[UR6][R8.64] ;
        /*0050*/               @P2 LDG.E.CONSTANT R12, desc[UR6][R10.64] ;
        /*0060*/                   FSETP.GT.AND P3, PT, R12, 1, PT ;
        /*0070*/              @!P3 BRA 0xa0 ;
        /*0080*/                   MOV R20, 0xa0 ;
        /*0090*/                   CALL.REL.NOINC 0x1c0 ;
        /*00a0*/                   MUFU.EX2 R5, R4 ;
        /*00b0*/              @!P2 IMAD.MOV R6, RZ, RZ, R5 ;
        /*00c0*/                   FFMA R7, R5.reuse, R6, 0.5 ;
        /*00d0*/                   STG.E.128 desc[UR6][R8.64], R4 ;
        /*00e0*/                   BRA 0x120 ;
        /*00f0*/                   LDG.E R4, desc[UR6][R8.64] ;
        /*0100*/                   FADD R7, R4, R4 ;
        /*0110*/                   STG.E desc[UR6][R8.64], R7 ;
        /*0120*/                   IADD3 R0, R0, 0x4, RZ ;
        /*0130*/                   ISETP.LT.AND P0, PT, R0, R2, PT ;
        /*0140*/              @!P4 BRA P0, 0x30 ;
        /*0150*/                   BSYNC B0 ;
        /*0160*/                   LDG.E.64 R16, desc[UR6][R18.64] ;
        /*0170*/                   STL [R1], R16 ;
        /*0180*/              @!P5 BRA 0x10 ;
        /*0190*/                   EXIT ;
        /*01a0*/                   BRA 0x1a0;
        /*01b0*/                   NOP;
        /*01c0*/                   FMUL R12, R12, R12 ;
        /*01d0*/                   RET.REL.NODEC R20 0x0 ;
		..........
"""
USAGE = """
Fatbin elf code:
arch = sm_90
Resource usage:
 Common:
  GLOBAL:28 CONSTANT[4]:224
 Function _Z6kernelPf:
  REG:64 STACK:8 SHARED:2048 LOCAL:0 CONSTANT[0]:952 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


@pytest.fixture
def kernel():
    """The listing as gradients of float32 logits with a byte of label each."""
    ((arch, name, text),) = sass.functions(LISTING)
    ((_, same, usage),) = sass.resources(USAGE)
    assert (arch, name) == ("sm_90", "_Z6kernelPf") == ("sm_90", same)
    known = {"family": "pointwise", "passes": "backward", "size": 4, "label_size": 1}
    return Kernel(arch, name, usage, text, what="Loss float bytes", **known)


def test_the_main_loop_is_the_inner_one_without_its_rare_paths(kernel):
    head, body = kernel.flow.main
    loop = kernel.flow.iteration()
    assert kernel.code[head].address == 0x30 and len(kernel.flow.loops) == 2 and len(body) < 10
    away = {0x80, 0x90, 0xF0, 0x100, 0x110}
    assert [one.address for one in loop] == sorted({*range(0x30, 0x150, 16)} - away)
    predicated = [(one.guard, one.opcode) for one in loop if one.guard]
    assert predicated[1:4] == [("P2", "LDG.E.CONSTANT"), ("!P3", "BRA"), ("!P2", "IMAD.MOV")]


def test_counts_are_an_elements(kernel):
    row = kernel_counts.count(kernel, None, {})
    assert (row["registers"], row["stack"], row["local"]) == (64, 8, 1) and kernel.spills
    assert row["issued"] == 13 / 4
    pipes = {"alu": 3, "fma": 1, "imad": 1, "lsu": 3, "mufu": 1}
    assert row["pipes"] == {name: number / 4 for name, number in pipes.items()}
    assert row["accesses"] == {"LDG 16": 1, "LDG 4": 1, "STG 16": 1}
    assert row["bytes"] == 9
    assert (row["predicted"], row["bound"]) == ((1 << 26) * 9 / 4.1e6, "bytes")
    assert f"| {row['kernel']} | 64 | 8 | 1 | 3.2 |" in kernel_counts.table([row])


def test_what_binds_is_bytes_issue_or_a_pipe(kernel):
    def bound(issued, **pipes):
        return kernel_counts.predict(kernel, issued, pipes, 9)[1]

    assert bound(20) == "bytes" and bound(60) == "issue"
    assert bound(60, mufu=8) == "mufu" and bound(60, alu=29) == "issue"


def test_kernels_are_known_by_their_names():
    name = "void mtlfast::{}(mtlfast::Args)"
    of = "pointwise_forward_kernel<mtlfast::MseLoss, mtlfast::Half, (mtlfast::Path){}, false>"
    plain, weighted = (of_library("sm_90", name.format(of.format(path)), {}) for path in (1, 3))
    assert plain.what == "MseLoss Half floats" and (plain.size, plain.label_size) == (2, 4)
    assert (
        plain.plain
        and not weighted.plain
        and weighted.label == ("MseLoss Half weighted floats forward")
    )
    held = "rows_backward_kernel<float, mtlfast::Squares, mtlfast::Held<4, 2, true, true, false> >"
    rows = of_library("sm_90", name.format(held), {})
    assert rows.label == "Squares float 4 unit x2 backward" and rows.rows == 4
    assert rows.time_name == "hierarchical 262144x256"
    other = of_library("sm_90", "pointwise_sums_kernel(mtlfast::ForwardArgs)", {"REG": 40})
    assert other.label == "pointwise_sums_kernel" and other.time_name is None


def test_why_nothing_is_counted_is_told(tmp_path, monkeypatch, capsys):
    def told(*arguments):
        with pytest.raises(SystemExit) as end:
            kernel_counts.main([*map(str, arguments)])
        return str(end.value)

    absent = tmp_path / "absent.so"
    assert told("--files", absent).startswith(f"kernel-counts: {absent} was wanted")
    absent.write_bytes(b"no code")
    monkeypatch.setattr(kernel_counts, "listed", lambda file, arch: [])
    wanted = "kernel-counts: code for sm_80 was wanted"
    assert told("--files", absent, "--arch", "sm_80").startswith(wanted)
    monkeypatch.undo()
    monkeypatch.setattr(disassembly, "find", lambda program: None)
    assert told("--files", absent).startswith("kernel-counts: cuobjdump was wanted")


@pytest.mark.skipif(not kernel_counts.Path(kernel_counts.LIBRARY).exists(), reason="no library")
@pytest.mark.skipif(disassembly.find("cuobjdump") is None, reason="no cuobjdump")
def test_kernels_of_the_library_are_counted(capsys):
    try:
        kernel_counts.main(["BinaryCrossEntropyWithLogits float (weighted )?bytes", "--json"])
    except SystemExit as end:
        pytest.skip(str(end))
    for row in json.loads(capsys.readouterr().out):
        assert row["bytes"] == (9 if "backward" in row["kernel"] else 5)
        assert row["accesses"]["LDG 16"] * 4 == row["accesses"]["LDG 4"] * 4
        assert 10 < row["issued"] < 60 and 0.5 < row["pipes"]["mufu"] < 4
        assert row["predicted"] >= (1 << 26) * row["bytes"] / 4.1e6


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
def test_tritons_kernels_are_counted_as_a_call_compiles_them(tmp_path):
    """In a process of its own: the driver is a stub from then on."""
    program = str(disassembly.ROOT / "benches/kernel_counts.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, program, "mse_loss float", "--triton", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["kernel"]: row for row in json.loads(done.stdout)}
    forward, backward = (rows[f"mse_loss float {passes}"] for passes in ("forward", "backward"))
    assert forward["bytes"] == 8 and backward["bytes"] == 12
    assert backward["accesses"]["LDG 16"] == 2 * backward["accesses"]["STG 16"]
    assert "0 of 3 kernels spill" in done.stderr
