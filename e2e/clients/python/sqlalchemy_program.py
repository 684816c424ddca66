"""What an application does with SQLAlchemy and its dialect for rqlite."""

import program
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "sa_books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    pages: Mapped[int | None]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("sa_authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class Count(Base):
    __tablename__ = "sa_counts"
    n: Mapped[int] = mapped_column(primary_key=True)


def main(hosts, user, password):
    def connect(host, port):
        return sa.create_engine(sa.URL.create("rqlite+pyrqlite", username=user, password=password, host=host, port=port))

    somewhere = program.Somewhere(hosts, connect)
    engine = somewhere.connection
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Author(name="Lem", books=[Book(title="Solaris", pages=204), Book(title="Eden")]))
        session.add(Author(name="Butler", books=[Book(title="Kindred", pages=264)]))
        session.commit()
    with Session(engine) as session:
        found = session.scalars(sa.select(Book).join(Author).where(Author.name == "Lem").order_by(Book.title)).all()
        assert [(book.title, book.pages) for book in found] == [("Eden", None), ("Solaris", 204)], found
        total = session.scalar(sa.select(sa.func.sum(Book.pages)))
        assert total == 468, total
        found[0].pages = 320
        session.commit()
    with Session(engine) as session:
        assert session.scalar(sa.select(Book.pages).where(Book.title == "Eden")) == 320
    for n in program.writes():
        somewhere.do(lambda engine: add(engine, n), lambda engine: add_if_missing(engine, n))
    engine = somewhere.connection
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Count)) == program.WRITES
    assert set(sa.inspect(engine).get_table_names()) >= {"sa_authors", "sa_books"}


def add(engine, n):
    with Session(engine) as session:
        session.add(Count(n=n))
        session.commit()


def add_if_missing(engine, n):
    with Session(engine) as session:
        session.merge(Count(n=n))
        session.commit()


program.run(main)
