from __future__ import annotations

import pytest

from scripts.benchmark_stats import parse_server_timing, percentile, stage_stats, table


def test_server_timing_gives_milliseconds_by_stage() -> None:
    assert parse_server_timing('decode;dur=12.5, infer;desc="on the CPU";dur=80, total;dur="93.1"') == {
        "decode": 12.5,
        "infer": 80.0,
        "total": 93.1,
    }


@pytest.mark.parametrize("header", ["", "cache;desc=hit", "miss"])
def test_entries_without_a_duration_are_left_out(header: str) -> None:
    assert parse_server_timing(header) == {}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile([*range(100, 0, -1)], share) == expected


def test_one_value_is_every_percentile() -> None:
    assert {percentile([7.0], share) for share in (0.5, 0.95, 0.99)} == {7.0}


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_stages_keep_their_order_and_count_their_own_samples() -> None:
    stats = stage_stats([{"wait": 1, "infer": 10}, {"infer": 30, "refine": 5}])

    assert list(stats) == ["wait", "infer", "refine"]
    assert [s.count for s in stats.values()] == [1, 2, 1]
    assert (stats["infer"].p50_ms, stats["infer"].p99_ms) == (10, 30)


def test_the_table_has_a_line_for_each_stage() -> None:
    lines = table(stage_stats([{"decode": 1.25, "background": 1234.5}])).splitlines()

    assert [line.split()[0] for line in lines] == ["stage", "decode", "background"]
    assert len({len(line) for line in lines}) == 1
