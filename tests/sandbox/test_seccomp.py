"""The filter of system calls, run by an evaluator of its own: for machines that the tests do not run on, too."""

import struct

import pytest

from alpkit.sandbox.seccomp import MACHINES, program

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50061
WRITE = {"x86_64": 1, "aarch64": 64}


def evaluate(code: bytes, *, audit: int, number: int, argument: int = 0) -> int:
    """Run a filter as the kernel does; gives what it returns."""
    data = struct.pack("=IIQQ", number, audit, 0, argument)
    steps = list(struct.iter_unpack("=HBBI", code))
    at, held = 0, 0
    while True:
        operation, yes, no, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                (held,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += yes if held == value else no
            case 0x35:
                at += yes if held >= value else no
            case 0x45:
                at += yes if held & value else no
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(operation)


@pytest.mark.parametrize("name", MACHINES)
def test_the_filter_refuses_what_it_names_and_nothing_else(name: str) -> None:
    machine, code = MACHINES[name], program(name)

    def verdict(number: int, argument: int = 0) -> int:
        return evaluate(code, audit=machine.audit, number=number, argument=argument)

    refused = set(machine.refused.values())
    assert {verdict(number) for number in refused} == {EPERM}
    others = set(range(500)) - refused - {machine.clone3, machine.socket, machine.clone}
    assert {verdict(number) for number in others} == {ALLOW}
    assert WRITE[name] in others
    assert verdict(machine.clone3) == ENOSYS
    assert verdict(machine.clone, 0x01200011) == ALLOW  # a fork
    for flag in (
        0x80,
        0x20000,
        0x2000000,
        0x4000000,
        0x8000000,
        0x10000000,
        0x20000000,
        0x40000000,
    ):
        assert verdict(machine.clone, 17 | flag) == EPERM
    assert [verdict(machine.socket, family) for family in (1, 2, 10)] == [ALLOW] * 3
    assert {verdict(machine.socket, family) for family in (0, 16, 17, 38, 40)} == {EAFNOSUPPORT}


def test_calls_of_another_architecture_are_killed_and_x32_refused() -> None:
    code = program("x86_64")
    assert evaluate(code, audit=0x40000003, number=4) == KILL
    assert evaluate(code, audit=0xC000003E, number=0x40000001) == EPERM
