"""The journal of answers, the verdict on them, and the table made of them."""

from __future__ import annotations

import httpx
import pytest

from scripts.chaos_parts import table
from scripts.chaos_parts.answers import Answer, Journal, error_code
from scripts.chaos_parts.campaign import Outage
from scripts.chaos_parts.verdict import forbidden, is_allowed

OURS = {"detail": "Busy.", "error_code": "OVERLOADED", "request_id": "1"}
LAMA = Outage("lama", False, (7,), True, began_s=100, normal_s=5, job_s=8)
PROXY = Outage("proxy", True, (8,), True, began_s=200, normal_s=4, job_s=3)


def journal(*answers: Answer) -> Journal:
    return Journal(list(answers))


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(200, json=OURS), ""),
        (httpx.Response(503, json=OURS), "OVERLOADED"),
        (httpx.Response(503, json={"detail": "Busy."}), "plain"),
        (httpx.Response(500, text="Internal Server Error"), "plain"),
        (httpx.Response(500, json=["no", "object"]), "plain"),
    ],
)
def test_only_an_error_with_our_whole_body_is_ours(response: httpx.Response, code: str) -> None:
    assert error_code(response) == code


def test_the_longest_gap_counts_good_answers_of_one_kind_and_both_ends() -> None:
    answers = journal(
        Answer("remove", 0, 1, 200),
        Answer("status", 2, 3, 200),
        Answer("remove", 3, 4, 503, "OVERLOADED", is_good=False),
        Answer("remove", 1, 6, 200),
        Answer("remove", 6, 7, 200),
    )
    assert answers.longest_gap_s("remove", 0, 8) == 5
    assert answers.longest_gap_s("remove", 6.5, 10) == 3
    assert answers.longest_gap_s("upload", 0, 8) == 8


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        (Answer("remove", 101, 102, 503, "OVERLOADED", is_good=False), True),
        (Answer("remove", 1, 2, 503, "MODEL_NOT_LOADED", is_good=False), True),
        (Answer("remove", 101, 102, 503, "plain", is_good=False), False),
        (Answer("remove", 201, 202, 500, "plain", is_good=False), True),
        (Answer("remove", 199, 201, None, "reset", is_good=False), True),
        (Answer("remove", 204.5, 205, None, "refused", is_good=False), False),
        (Answer("remove", 101, 102, None, "reset", is_good=False), False),
        (Answer("remove", 201, 202, 500, "INTERNAL_ERROR", is_good=False), False),
        (Answer("remove", 201, 202, 504, "PROCESSING_TIMEOUT", is_good=False), False),
        (Answer("status", 201, 202, 404, "JOB_NOT_FOUND", is_good=False), False),
        (Answer("status", 201, 261, None, "no answer", is_good=False), False),
    ],
)
def test_broken_connections_are_allowed_only_while_the_door_is_away(answer: Answer, allowed: bool) -> None:
    assert is_allowed(answer, [LAMA, PROXY]) is allowed


def test_forbidden_answers_are_told_with_the_fault_they_came_after() -> None:
    bad = Answer("remove", 101, 102, 500, "plain", is_good=False)
    early = Answer("upload", 1, 2, 500, "plain", is_good=False)
    fine = Answer("remove", 201, 202, 500, "plain", is_good=False)
    assert forbidden(journal(bad, bad, early, fine), [LAMA, PROXY]) == [
        "remove: 2× 500 plain after lama",
        "upload: 1× 500 plain after no fault",
    ]


def test_the_table_has_a_line_per_fault_with_its_longest_silence_and_its_errors() -> None:
    answers = journal(
        Answer("remove", 99, 101, 200),
        Answer("remove", 101, 101.5, 503, "OVERLOADED", is_good=False),
        Answer("remove", 102, 107, 200),
        Answer("status", 100, 104, 200),
        Answer("remove", 150, 151, 500, "plain", is_good=False),
    )
    found = table.rows(answers, [LAMA])
    assert found[0]["longest_without_removal_s"] == 6
    assert found[0]["longest_without_status_s"] == 4
    assert found[0]["answers"] == {"remove 503 OVERLOADED": 1}
    head, line = table.text(found).splitlines()
    assert head.startswith("killed")
    assert line.split() == ["lama", "6.0", "s", "4.0", "s", "5.0", "s", "8.0", "s", "1×", "remove", "503", "OVERLOADED"]


def test_the_table_says_what_never_came_and_what_missed_its_moment() -> None:
    never = Outage("lama", False, (7,), False, began_s=100, normal_s=None, job_s=None)
    assert [word for word in (" * ", "never") if word in table.text(table.rows(journal(), [never]))] == [" * ", "never"]
