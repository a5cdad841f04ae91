"""Questions in SQL: reading only, inside the catalog only, and errors of one line."""

from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, connect, named_queries, named_query, run_query
from igd_ray.errors import InputError
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row
from tests.toys.commands import run_python

VIEWS = [
    "runs",
    "run_units",
    "rankings",
    "searches",
    "trials",
    "search_settings",
    "refinements",
    "outcomes",
    "adversarials",
    "checks",
    "failures",
    "accuracy",
    "worst_case",
    "progress",
]


def _files(root: Path) -> set[Path]:
    return set(root.rglob("*"))


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_answers_over_an_empty_catalog(catalog: Catalog, view: str) -> None:
    assert run_query(catalog, f"SELECT * FROM {view}").num_rows == 0


def test_a_folder_with_special_characters_and_a_link_to_it(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "a{b,c}*?[x]~ 'é")
    catalog.create()
    add_run(catalog)
    (tmp_path / "link").symlink_to(catalog.root)
    for each in (catalog, Catalog(tmp_path / "link")):
        assert run_query(each, "SELECT run_id FROM runs").to_pylist() == [{"run_id": "run"}]


def test_times_are_in_utc(catalog: Catalog) -> None:
    add_run(catalog)
    (answer,) = run_query(catalog, "SELECT created_at::VARCHAR AS at FROM runs").to_pylist()
    assert answer["at"] == "2026-01-02 03:04:05+00"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS x",
        "FROM runs",
        "VALUES (1)",
        "WITH x AS (SELECT 1) SELECT * FROM x;",
        "DESCRIBE runs",
        "EXPLAIN SELECT * FROM outcomes",
        "\n explain ANALYZE SELECT 1",
        "EXPLAIN /* why /* so */ */ (FROM runs) UNION ALL FROM runs",
        "EXPLAIN (ANALYZE, FORMAT JSON) FROM runs",
        "SELECT * FROM (PIVOT outcomes ON attack IN ('aa') USING count(*))",
        "WITH RECURSIVE x(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM x WHERE i < 3) FROM x",
        'SELECT \'"type":"COPY_QUERY_NODE"\' AS type',
    ],
)
def test_reading_is_allowed(catalog: Catalog, sql: str) -> None:
    run_query(catalog, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{root}/x.csv'",
        "COPY (SELECT 1) TO '/tmp/igd-x.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/x.csv'",
        "EXPLAIN (ANALYZE, FORMAT JSON) COPY (SELECT 1) TO '{root}/x.csv'",
        "/* a */ EXPLAIN -- b\nANALYZE /* c */ COPY (SELECT 1) TO '{root}/x.csv'",
        "EXPLAIN/**/ANALYZE/**/COPY (SELECT 1) TO '{root}/x.csv'",
        "ATTACH '{root}/x.db' AS x",
        "ATTACH ':memory:' AS x",
        "EXPORT DATABASE '{root}/x'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA version",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW runs",
        "INSERT INTO runs VALUES (1)",
        "DELETE FROM runs",
        "PREPARE x AS SELECT 1",
        "BEGIN",
        "CHECKPOINT",
        "USE memory",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{root}/x.csv'",
        "WITH x AS (INSERT INTO y VALUES (1)) SELECT 1",
        "EXPLAIN ANALYZE WITH x AS (DELETE FROM y) SELECT 1",
        "EXPLAIN SET threads = 1",
        "-- DuckDB reads comments in its own way\nEXPLAIN SELECT 1",
        "",
        ";",
        "-- nothing",
    ],
)
def test_all_else_is_refused_and_nothing_is_written(catalog: Catalog, sql: str) -> None:
    before = _files(catalog.root)
    with pytest.raises(InputError, match=r"^(the SQL must be one SELECT|SQL: )") as caught:
        run_query(catalog, sql.replace("{root}", str(catalog.root)))
    assert "\n" not in str(caught.value)
    assert _files(catalog.root) == before
    assert not Path("/tmp/igd-x.csv").exists()


# Comments nest, and quotes end, by DuckDB's rules alone.
DISGUISES = [
    "",
    "EXPLAIN (ANALYZE, FORMAT JSON) ",
    "EXPLAIN /* ANALYZE SELECT 1 -- */ ANALYZE ",
    "/* /* */ EXPLAIN SELECT 1 -- */ EXPLAIN ANALYZE ",
    "EXPLAIN\u2003ANALYZE\u00a0",
    "SELECT $a$ ' $a$; EXPLAIN ANALYZE ",
]


@pytest.mark.parametrize(
    "sql",
    [
        *(disguise + "COPY (SELECT 1) TO '{root}/runs/_empty.parquet'" for disguise in DISGUISES),
        *(disguise + "WITH x AS (COPY (SELECT 1) TO '{root}/x.csv') SELECT 1" for disguise in DISGUISES),
        "(WITH x AS MATERIALIZED (COPY (SELECT 1) TO '{root}/x.parquet' (FORMAT parquet)) FROM x)",
        "FROM query('WITH x AS (COPY (SELECT 1) TO ''{root}/x.csv'') FROM x')",
        "FROM enable_profiling(save_location = '{root}/x.json')",
        "EXPLAIN ANALYZE EXPORT DATABASE '{root}/x'",
        "SELECT 1\0; COPY (SELECT 1) TO '{root}/x.csv'",
    ],
)
def test_no_disguise_lets_a_statement_write(catalog: Catalog, sql: str) -> None:
    contents = {path: path.read_bytes() for path in _files(catalog.root) if path.is_file()}
    with pytest.raises(InputError):
        run_query(catalog, sql.replace("{root}", str(catalog.root)))
    assert {path: path.read_bytes() for path in _files(catalog.root) if path.is_file()} == contents


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{root}/../secret.csv')",
        "SELECT * FROM glob('{root}/../*')",
        "SELECT * FROM read_parquet('{root}/../*.csv')",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('.tmp/x')",
        "SELECT * FROM read_text('https://localhost/x')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{root}/x.csv''')",
        "SELECT * FROM enable_logging(storage = 'file', storage_path = '{root}')",
        "SELECT getenv('HOME')",
        "SELECT * FROM catalog",  # a Python variable
    ],
)
def test_nothing_outside_is_read(catalog: Catalog, sql: str) -> None:
    secret = catalog.root.parent / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    before = _files(catalog.root)
    with pytest.raises(InputError, match=r"^SQL: (Permission|Catalog|Invalid Input|Parser) Error"):
        run_query(catalog, sql.replace("{file}", str(secret)).replace("{root}", str(catalog.root)))
    assert _files(catalog.root) == before


def test_the_connection_itself_is_shut(catalog: Catalog) -> None:
    with connect(catalog) as connection:
        allowed = connection.execute("SELECT current_setting('allowed_directories')").fetchone()
        assert allowed is not None
        assert allowed[0] == ["igd://"]


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT * FROM outcome", 'Did you mean "outcomes"'),
        ("SELECT runid FROM runs", '"run_id"'),
        ("SELEC 1", "syntax error"),
        ("SELECT 'x'::INT", "Could not convert"),
        ("SELECT error('my own')", "my own"),
    ],
)
def test_errors_are_one_line_with_the_hint(catalog: Catalog, sql: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint) as caught:
        run_query(catalog, sql)
    assert "\n" not in str(caught.value)
    assert "LINE" not in str(caught.value)


# Views take their columns from the first file in order, so both ends of the order are tried.
@pytest.mark.parametrize("name", ["0.parquet", "z.parquet", ".hidden.parquet"])
@pytest.mark.parametrize("damage", ["half", "empty", "junk", "foreign"])
def test_a_half_written_or_foreign_file_is_left_out_and_stays_where_it_is(
    catalog: Catalog, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog.commit("checks", "c", [row("checks", run_id="r", check="x", severity="info", message="m")])
    checks = catalog.root / "checks"
    whole = (checks / "_empty.parquet").read_bytes()
    foreign = (catalog.root / "runs" / "_empty.parquet").read_bytes()
    content = {"half": whole[: len(whole) // 2], "empty": b"", "junk": b"junk", "foreign": foreign}[damage]
    (checks / name).write_bytes(content)
    assert run_query(catalog, 'SELECT "check" FROM checks').to_pylist() == [{"check": "x"}]
    assert (checks / name).read_bytes() == content
    said = capsys.readouterr().err
    if name.startswith("."):
        assert said == "", "a writer has not finished it"
    else:
        assert said.startswith(f"{catalog}/checks/{name} is damaged, not read: ")
        assert said.count("\n") == 1
    run_query(catalog, "FROM checks")
    assert capsys.readouterr().err == "", "it is said once"


def test_another_schema_version_is_refused(catalog: Catalog) -> None:
    (catalog.root / "catalog.json").write_text('{"schema_version": 0}')
    with pytest.raises(InputError, match="schema version 0"):
        run_query(catalog, "SELECT 1")


def test_named_queries_run(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("loir-2", "aa", "ab")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust", "b": "broken"})
    add_outcomes(catalog, "v", "loir-2", "aa", {"a": "broken", "b": "robust"})
    assert set(named_queries()) >= {"accuracy_table", "classwise", "disagreements", "cost"}
    add_run(catalog, "audited")
    add_plan(catalog, {"w": ("loir-2", "audit-line", "b"), "x": ("loir-2", "square", "b")}, "audited")
    add_outcomes(catalog, "w", "loir-2", "audit-line", {"b": "robust"})
    add_outcomes(catalog, "x", "loir-2", "square", {"b": "robust"})
    # Rows of these: tests/catalog/test_analysis_views.py.
    analyses = {
        "activations",
        "loss_surface",
        "overlap",
        "relative_cost",
        "sensitivity",
        "table7",
        "table10",
        "table12",
    }
    for name, sql in named_queries().items():
        assert run_query(catalog, sql).num_rows > 0 or name in analyses, name
    disagreements = run_query(catalog, named_query("disagreements")).to_pylist()
    assert [(each["image_id"], each["saved_by"], each["lost_by"]) for each in disagreements] == [
        ("a", "none", "loir-2"),
        ("b", "loir-2", "none"),
    ]
    table = run_query(catalog, named_query("accuracy_table")).to_pylist()
    assert [(each["defense"], each["attack"], each["robust"]) for each in table if each["run_id"] == "run"] == [
        ("none", "aa", 50.0),
        ("none", "worst case", 50.0),
        ("loir-2", "aa", 50.0),
        ("loir-2", "worst case", 50.0),
    ]


def test_an_unknown_query_names_the_close_one() -> None:
    with pytest.raises(InputError, match="did you mean 'classwise'"):
        named_query("classwis")


def test_plain_duckdb_in_the_folder_works(catalog: Catalog) -> None:
    catalog.commit("checks", "c", [row("checks", run_id="r", check="x", severity="info", message="m")])
    program = (
        "import duckdb; c = duckdb.connect(); c.execute(open('views.sql').read());"
        "print(c.sql('SELECT run_id FROM checks').fetchall(), c.sql('FROM worst_case').fetchall())"
    )
    done = run_python(program, folder=catalog.root)
    assert done.stdout == "[('r',)] []\n", done.stderr
