"""What ``chaos.py`` is asked on its command line, and what it tells in the end."""

from __future__ import annotations

import pytest

from scripts import chaos
from scripts.chaos_parts.answers import Answer, Journal
from scripts.chaos_parts.campaign import Outage
from scripts.chaos_parts.ledger import Ledger
from scripts.chaos_parts.load import Pace
from scripts.chaos_parts.proof import Proof
from scripts.chaos_parts.reference import Reference

REFERENCE = Reference({}, job_s=1.25, removal_s=0.125)
LAMA = Outage("lama", False, (7,), True, began_s=100, normal_s=5, job_s=8)


def test_faults_strike_in_their_own_order_and_everything_last() -> None:
    assert chaos.parse(["--faults", "everything,proxy,birefnet"]).faults == ["birefnet", "proxy", "everything"]
    assert chaos.parse([]).faults[-1] == "everything"
    assert len(chaos.parse([]).faults) == 8


def test_a_foreign_service_is_never_killed_as_a_whole() -> None:
    assert "everything" not in chaos.parse(["--url", "http://127.0.0.1:8000", "--pid", "1"]).faults


@pytest.mark.parametrize("arguments", [["--faults", "lama,gpu"], ["--url", "http://127.0.0.1:8000"], ["--pid", "1"]])
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        chaos.parse(arguments)
    assert refusal.value.code == 2
    assert capsys.readouterr().err


def test_the_pace_asks_for_the_load_and_no_more() -> None:
    pace = Pace.of(removal_s=0.2, job_s=2.0, load=0.6)
    assert 0.2 / pace.removal_every_s + 2.0 / pace.job_every_s == pytest.approx(0.6)


def test_a_forbidden_answer_is_a_problem_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal([Answer("remove", 101, 102, 500, "plain", is_good=False), Answer("remove", 101, 103, 200)])
    report = chaos.report_of(journal, [LAMA], Ledger(), Proof(), REFERENCE)
    assert report["problems"] == ["not allowed: remove: 1× 500 plain after lama"]
    assert report["answers"] == {"remove": {"500 plain": 1, "200": 1}}
    chaos.print_report(report)
    assert "PROBLEM: not allowed" in capsys.readouterr().out


def test_a_report_without_problems_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    report = chaos.report_of(Journal(), [LAMA], Ledger(), Proof(accepted=3), REFERENCE)
    chaos.print_report(report)
    assert capsys.readouterr().out.endswith("Nothing was lost, torn or wrong.\n")
