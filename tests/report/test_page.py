import jinja2
import pytest

from keras_ft.report import page


@pytest.fixture
def render(monkeypatch):
    """Renders the source of a template with values."""

    def render_source(source, **values):
        loader = jinja2.DictLoader({"some.html": source})
        monkeypatch.setattr(page.jinja2, "PackageLoader", lambda package: loader)
        return page.render("some.html", **values)

    return render_source


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<b>\"a\" & 'b'</b>", "&lt;b&gt;&#34;a&#34; &amp; &#39;b&#39;&lt;/b&gt;"),
        ("two\nlines", r"two\nlines"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u0642\u0637 😀", "\u0642\u0637 😀"),
        (7, "7"),
    ],
)
def test_strings_are_escaped_and_have_no_invisible_characters(render, value, shown):
    assert render("<p>{{ value }}</p>", value=value) == f"<p>{shown}</p>"


def test_the_result_of_a_macro_is_escaped_once(render):
    source = "{% macro bold(x) %}<b>{{ x }}</b>\n{% endmacro %}{{ bold(value) }}"
    assert render(source, value="a & b") == "<b>a &amp; b</b>\n"


def test_fractions_are_shown_as_per_cent_and_percentage_points(render):
    source = "{{ x | percent }}, {{ -x | points }}"
    assert render(source, x=0.12345) == "12.3&nbsp;%, 12.3"


def test_a_template_requires_all_its_variables():
    with pytest.raises(jinja2.UndefinedError):
        page.render("report.html", metrics={})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("two\nlines\x00", r"two\nlines\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff.png", r"\udcff.png"),
        ("👩\u200d👧 \u0642\u0637 漢字", "👩\u200d👧 \u0642\u0637 漢字"),
    ],
)
def test_invisible_characters_are_escaped(text, shown):
    assert page.visible(text) == shown
    page.visible(text).encode()
