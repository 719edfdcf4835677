"""The gallery: ratings, tags, the trash, what a scan compares, and full-text search."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Without accents, as FTS5 does it: letters apart from their marks (Unicode's form D), and the marks left out.
FULL_TEXT = r"to_tsvector('simple', regexp_replace(normalize(prompt || ' ' || tags, NFD), '[\u0300-\u036f]', '', 'g'))"


def upgrade() -> None:
    op.drop_index("ix_images_created", "images")
    for column in (
        sa.Column("position", sa.BigInteger),
        sa.Column("state", sa.Text, nullable=False, server_default="shown"),
        sa.Column("origin", sa.Text),
        sa.Column("trashed", sa.Float),
        sa.Column("format", sa.Text, nullable=False, server_default="png"),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("mtime", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("pixels", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("model_hash", sa.Text),
        sa.Column("lora_hashes", sa.JSON),
        sa.Column("job", sa.Text),
        sa.Column("parent", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("environment", sa.JSON),
        sa.Column("rating", sa.Integer, nullable=False, server_default="0"),
        sa.Column("favourite", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("tags", sa.Text, nullable=False, server_default=""),
    ):
        op.add_column("images", column)
    _fill()
    with op.batch_alter_table("images") as images:
        images.alter_column("position", existing_type=sa.BigInteger, nullable=False)
        images.alter_column("seed", existing_type=sa.BigInteger, nullable=True)
        images.create_unique_constraint("uq_images_position", ["position"])
    op.create_table(
        "image_tags",
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
    # Every filter that is no index of its own is in the first: it is decided without touching the row.
    op.create_index(
        "ix_images_newest", "images", ["state", "position", "rating", "favourite", "width", "height", "source"]
    )
    op.create_index("ix_images_rating", "images", ["state", "rating", "position"])
    op.create_index("ix_images_model", "images", ["state", "model", "position"])
    op.create_index("ix_images_seed", "images", ["seed", "position"])
    op.create_index("ix_images_job", "images", ["job", "position"])
    op.create_index("ix_images_pixels", "images", ["pixels"])
    if op.get_bind().dialect.name == "sqlite":
        _make_search()
    else:
        op.execute(f"CREATE INDEX image_search ON images USING gin ({FULL_TEXT})")


def _fill() -> None:
    images = sa.table(
        "images",
        sa.column("id", sa.Text),
        sa.column("created", sa.Float),
        sa.column("position", sa.BigInteger),
        sa.column("parameters", sa.JSON),
        sa.column("model", sa.Text),
    )
    position = 0
    connection = op.get_bind()
    rows = connection.execute(sa.select(images.c.id, images.c.created, images.c.parameters).order_by(images.c.created))
    for row in rows.all():
        position = max(position + 1, int(row.created * 1_000_000))
        model = row.parameters.get("model")
        connection.execute(sa.update(images).where(images.c.id == row.id).values(position=position, model=model))


def _make_search() -> None:
    """FTS5 over the table itself (external content), kept up to date by triggers, whoever writes."""
    op.execute(
        "CREATE VIRTUAL TABLE image_search USING fts5(prompt, tags, content='images', content_rowid='position', "
        "tokenize='unicode61 remove_diacritics 2', prefix='1 2 3')"
    )
    forget = (
        "INSERT INTO image_search(image_search, rowid, prompt, tags) "
        "VALUES('delete', old.position, old.prompt, old.tags);"
    )
    learn = "INSERT INTO image_search(rowid, prompt, tags) VALUES(new.position, new.prompt, new.tags);"
    op.execute(f"CREATE TRIGGER image_search_insert AFTER INSERT ON images BEGIN {learn} END")
    op.execute(f"CREATE TRIGGER image_search_delete AFTER DELETE ON images BEGIN {forget} END")
    op.execute(
        "CREATE TRIGGER image_search_update AFTER UPDATE OF position, prompt, tags ON images "
        f"BEGIN {forget} {learn} END"
    )
    op.execute("INSERT INTO image_search(image_search) VALUES('rebuild')")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for trigger in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER image_search_{trigger}")
        op.execute("DROP TABLE image_search")
    else:
        op.execute("DROP INDEX image_search")
    for index in ("newest", "rating", "model", "seed", "job", "pixels"):
        op.drop_index(f"ix_images_{index}", "images")
    op.drop_table("image_tags")
    op.execute("UPDATE images SET seed = -1 WHERE seed IS NULL")
    with op.batch_alter_table("images") as images:
        images.drop_constraint("uq_images_position", type_="unique")
        images.alter_column("seed", existing_type=sa.BigInteger, nullable=False)
        for column in (
            *("position", "state", "origin", "trashed", "format", "bytes", "mtime", "pixels", "model", "model_hash"),
            *("lora_hashes", "job", "parent", "owner", "environment", "rating", "favourite", "tags"),
        ):
            images.drop_column(column)
    op.create_index("ix_images_created", "images", ["created"])
