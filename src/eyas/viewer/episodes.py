"""The table of episodes: filters, order, a page of rows, and how many there are of each kind."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import duckdb

from eyas.viewer.index import EpisodeIndex
from eyas.viewer.problems import BadQuestion

MAX_ROWS = 500  # of a page
DEFAULT_ROWS = 100
ORDERS = {"iteration": "iteration", "return": '"return"', "success": "success", "length": "num_steps"}
FACETS = ("stage", "stop_reason", "success", "env_id", "task")
_ROW = """stage, iteration, env_id, task, episode, seed, num_steps, first_step, "return", success, progress, stop_reason,
    parse_failures"""
_EQUALS = {"stage": "stage", "env": "env_id", "stop_reason": "stop_reason"}
_RANGES = {"return": ('"return"', float), "iteration": ("iteration", int)}
_BOOLEANS = {"true": True, "false": False}
PARAMETERS = (
    *_EQUALS,
    *("task", "success", "has_parse_failure", "text", "sort", "offset", "limit"),
    *(f"{name}_{end}" for name in _RANGES for end in ("min", "max")),
)


@dataclass(frozen=True)
class EpisodeQuery:
    """What is asked for. `conditions` holds SQL by the column that it speaks of, `values` what fills its places."""

    conditions: Mapping[str, tuple[str, list[Any]]] = field(default_factory=dict)
    text: str | None = None
    order: str = "iteration"
    is_descending: bool = True
    offset: int = 0
    limit: int = DEFAULT_ROWS

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Self:
        """Reads the parameters of a request; empty ones are as if not given. Raises `BadQuestion`."""
        given = {name: value for name, value in parameters.items() if value != ""}
        conditions: dict[str, tuple[str, list[Any]]] = {}
        for name, column in _EQUALS.items():
            if name in given:
                conditions[column] = f"{column} = ?", [given[name]]
        if "task" in given:
            conditions["task"] = "task = ?", [_number(given, "task", int)]
        for name, (column, kind) in _RANGES.items():
            bounds = [
                (sign, f"{name}_{end}") for sign, end in ((">=", "min"), ("<=", "max")) if f"{name}_{end}" in given
            ]
            if bounds:
                sql = " AND ".join(f"{column} {sign} ?" for sign, _ in bounds)
                conditions[name] = sql, [_number(given, key, kind) for _, key in bounds]
        if "success" in given:
            value = _choice(given, "success", _BOOLEANS | {"none": None})
            conditions["success"] = "success IS NOT DISTINCT FROM ?", [value]
        if "has_parse_failure" in given:
            value = _choice(given, "has_parse_failure", _BOOLEANS)
            conditions["parse_failures"] = "(parse_failures > 0) = ?", [value]
        sort = given.get("sort", "-iteration")
        order = _choice({"sort": sort.removeprefix("-")}, "sort", {name: name for name in ORDERS})
        return cls(
            conditions,
            given.get("text"),
            order,
            sort.startswith("-"),
            max(0, _number(given, "offset", int) if "offset" in given else 0),
            min(MAX_ROWS, max(0, _number(given, "limit", int) if "limit" in given else DEFAULT_ROWS)),
        )

    def where(self, without: str | None = None) -> tuple[str, list[Any]]:
        """The SQL of every condition but that on one column, and its values."""
        used = [condition for column, condition in self.conditions.items() if column != without]
        clauses = [sql for sql, _ in used] or ["true"]
        if self.text is not None:
            clauses.append("id IN (SELECT id FROM matches)")
        return " AND ".join(clauses), [value for _, values in used for value in values]


def _number(given: Mapping[str, str], name: str, kind: type) -> Any:
    try:
        value = kind(given[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) >= 2**63:
        raise BadQuestion(f"{name}={given[name][:40]!r} is no number: write it as in {name}=1")
    return value


def _choice(given: Mapping[str, str], name: str, choices: Mapping[str, Any]) -> Any:
    if given[name] not in choices:
        raise BadQuestion(f"{name}={given[name][:40]!r}: write one of {', '.join(choices)}")
    return choices[given[name]]


# ----------------------------------------------------------------------------------------------- the answers


def find_episodes(index: EpisodeIndex, query: EpisodeQuery) -> dict[str, Any]:
    """`total`, a page of `rows`, and `facets`: counts by the values of a column, under the conditions on the others."""
    index.update()
    cursor = index.cursor()
    if query.text is not None:
        cursor.register("matches", index.matches(query.text))
    where, values = query.where()
    table = f"{index.schema}.episodes"
    total = cursor.execute(f"SELECT count(*) FROM {table} WHERE {where}", values).fetchall()[0][0]
    direction = "DESC" if query.is_descending else "ASC"
    page = cursor.execute(
        f"SELECT file, trajectory, {_ROW} FROM {table} WHERE {where} "
        f"ORDER BY {ORDERS[query.order]} {direction} NULLS LAST, file, trajectory LIMIT ? OFFSET ?",
        [*values, query.limit, query.offset],
    )
    return {
        "total": total,
        "rows": _rows(page, index),
        "facets": _facets(cursor, table, query),
        "notes": index.catalog.notes(),
    }


def episode_row(index: EpisodeIndex, name: str, trajectory: int) -> dict[str, Any] | None:
    """The row of one episode of a file; None where there is none."""
    index.update()
    numbers = [number for number, known in list(index.names.items()) if known == name]
    found = index.cursor().execute(
        f"SELECT file, trajectory, {_ROW} FROM {index.schema}.episodes WHERE list_contains(?, file) AND trajectory = ?",
        [numbers, trajectory],
    )
    return next(iter(_rows(found, index)), None)


def examples(index: EpisodeIndex) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """A few thoughts of each stage and iteration."""
    index.update_thoughts()
    found = index.cursor().execute(
        "SELECT stage, iteration, e.file, trajectory, step, thought, action_name "
        f"FROM {index.schema}.examples e JOIN {index.schema}.episodes USING (id) ORDER BY ALL"
    )
    by_iteration: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for stage, iteration, file, trajectory, step, thought, action_name in found.fetchall():
        example = {"thought": thought, "action_name": action_name, "key": f"{index.names.get(file)}:{trajectory}"}
        by_iteration.setdefault((stage, iteration), []).append(example | {"step": step})
    return by_iteration


def _rows(result: duckdb.DuckDBPyConnection, index: EpisodeIndex) -> list[dict[str, Any]]:
    names = [column[0] for column in result.description or ()][2:]
    return [
        {
            "key": f"{index.names.get(file)}:{trajectory}",
            **dict(zip(names, values, strict=True)),
            "thumbnail": index.thumbnail(file, trajectory),
        }
        for file, trajectory, *values in result.fetchall()
    ]


def _facets(cursor: duckdb.DuckDBPyConnection, table: str, query: EpisodeQuery) -> dict[str, dict[str, int]]:
    """Counts by the values of each column; those without a condition of their own in one pass."""
    facets: dict[str, dict[str, int]] = {}
    free = [column for column in FACETS if column not in query.conditions]
    for columns in [*([free] if free else []), *([column] for column in FACETS if column in query.conditions)]:
        where, values = query.where(without=columns[0] if len(columns) == 1 else None)
        texts = ", ".join(f"coalesce(CAST({c} AS VARCHAR), 'none') AS {c}_text" for c in columns)
        sets = ", ".join(f"({c}_text)" for c in columns)
        counts = cursor.execute(
            f"SELECT {', '.join(f'{c}_text' for c in columns)}, count(*) AS n FROM (SELECT {texts} FROM {table} "
            f"WHERE {where}) GROUP BY GROUPING SETS ({sets}) ORDER BY ALL",
            values,
        ).fetchall()
        for place, column in enumerate(columns):
            pairs = [(row[place], row[-1]) for row in counts if row[place] is not None]
            facets[column] = dict(sorted(pairs, key=lambda pair: -pair[1]))
    return facets
