"""The full-text index over names, descriptions, cards and tags: FTS5 on SQLite, a GIN index on PostgreSQL.

Both get the same words, made here, so that both find the same versions.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    TableClause,
    Text,
    cast,
    column,
    delete,
    func,
    insert,
    literal_column,
    table,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY

from modelyard.domain.versions import Description

_WORD = re.compile(r"[^\W_]+")
_MAX_LETTERS = 64
_MAX_BYTES = 512 * 1024  # of the words of one version: a tsvector holds 1 MiB

_fts = table("version_text", column("rowid", Integer), column("words"))
_gin = table("version_text", column("version_id", Integer), column("words"))


def words_of(content: str) -> list[str]:
    """The distinct words of a text, without case and accents, in order."""
    plain = unicodedata.normalize("NFKD", content.casefold())
    bare = "".join(c for c in plain if not unicodedata.combining(c))
    return list(dict.fromkeys(word[:_MAX_LETTERS] for word in _WORD.findall(bare)))


def index_words(connection: Connection, version: int, model: str, description: Description) -> None:
    """Index what a version says of itself, in place of what was indexed before."""
    d = description
    found = _bounded(words_of(" ".join((model, *d.tags, d.description, *d.authors, d.card))))
    drop_words(connection, version)
    if connection.dialect.name == "postgresql":
        # Lexemes as they are: the server's own parser would split and drop words by its locale.
        row = {"version_id": version, "words": func.array_to_tsvector(cast(found, ARRAY(Text)))}
        connection.execute(insert(_gin).values(row))
    else:
        connection.execute(insert(_fts).values(rowid=version, words=" ".join(found)))


def _bounded(words: list[str]) -> list[str]:
    sizes = itertools.accumulate(len(word.encode()) + 1 for word in words)
    return [word for word, size in zip(words, sizes, strict=True) if size <= _MAX_BYTES]


def drop_words(connection: Connection, version: int) -> None:
    """Remove a version from the index."""
    if connection.dialect.name == "postgresql":
        connection.execute(delete(_gin).where(_gin.c.version_id == version))
    else:
        connection.execute(delete(_fts).where(_fts.c.rowid == version))


def matching(dialect: str, content: str) -> tuple[TableClause, ColumnElement[int], ColumnElement[bool]] | None:
    """The index, its column of version row ids, and the condition that every word of `content` begins a word there.

    None where `content` has no word.
    """
    words = words_of(content)
    if not words:
        return None
    if dialect == "postgresql":
        query = cast(" & ".join(f"'{word}':*" for word in words), TSQUERY)
        return _gin, _gin.c.version_id, _gin.c.words.op("@@", is_comparison=True)(query)
    match = " AND ".join(f'"{word}"*' for word in words)
    return _fts, _fts.c.rowid, literal_column("version_text").op("MATCH", is_comparison=True)(match)
