"""The page in a real browser: no error, no network, and everything that one can do with it."""

import base64
import csv
import io
import time
from typing import Any

import pytest
from report_runs import HOSTILE, hostile_rows, many_rows, write_run

from grid.report import write_report

DRAWN = "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.trace path, .hm image').length)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write_run(tmp_path_factory.mktemp("many"), many_rows())).as_uri()


def texts(browser: Any, table: str, column: int) -> list[str]:
    script = "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(r => r.cells[arguments[1]].dataset"
    return browser.execute_script(f"{script}.value ?? r.cells[arguments[1]].textContent.trim())", table, column)


def drawn(browser: Any) -> list[int]:
    """Marks in each plot, once all have some: they are drawn after the page is there. After 30 s as it is."""
    for _ in range(60):
        counts: list[int] = browser.execute_script(DRAWN)
        if counts and min(counts) > 0:
            break
        time.sleep(0.5)
    return counts


def test_it_draws_everything_without_network_or_errors(page, tmp_path, browser, asked):
    hostile = write_report(write_run(tmp_path / "hostile", hostile_rows(), name=HOSTILE)).as_uri()
    for url in (page, hostile):
        browser.get(url)
        counts = drawn(browser)
        assert len(counts) > 7 and min(counts) > 0
        assert "what was forgotten" in browser.title
        assert browser.get_log("browser") == []
    shown = HOSTILE.replace("\u202e", "\\u202e")
    legend = browser.execute_script("return [...document.querySelectorAll('.legendtext')].map(t => t.textContent)")
    assert any(shown in text for text in legend)
    labels = browser.execute_script("return [...document.querySelectorAll('fieldset label')].map(t => t.textContent)")
    assert any(shown in text for text in labels)
    assert asked(browser) == [page, hostile]


@pytest.mark.slow
def test_tables_sort_by_the_keyboard(page, browser):
    from selenium.webdriver.common.keys import Keys

    browser.get(page)
    head = browser.find_elements("css selector", "#matched thead th")[3]
    button = head.find_element("tag name", "button")
    button.send_keys(Keys.ENTER)
    up = [float(text) for text in texts(browser, "matched", 3)]
    assert head.get_attribute("aria-sort") == "ascending" and up == sorted(up)
    button.send_keys(Keys.SPACE)
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in texts(browser, "matched", 3)] == up[::-1]
    browser.find_element("css selector", "#matched thead button").send_keys(Keys.ENTER)
    names = texts(browser, "matched", 0)
    assert head.get_attribute("aria-sort") is None
    assert names.index("arm_2") < names.index("arm_10")


@pytest.mark.slow
def test_a_table_is_exported_with_full_precision_and_no_formula(page, tmp_path, browser):
    capture = """
      window.saved = {};
      URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved.text = text; }); return "#"; };
      HTMLAnchorElement.prototype.click = function () { window.saved.name = this.download; };
      document.querySelector(`[data-table="${arguments[0]}"]`).click();
    """

    def export(url: str, table: str) -> list[dict[str, str]]:
        browser.get(url)
        browser.execute_script(capture, table)
        saved = browser.execute_async_script("setTimeout(() => arguments[0](window.saved), 100)")
        assert saved["name"] == f"{table}.csv"
        return list(csv.DictReader(io.StringIO(saved["text"].removeprefix("\ufeff"))))

    rows = export(page, "arms")
    assert len(rows) == 27
    (row,) = (row for row in rows if row["arm"] == "arm_3")
    assert float(row["forgetting of food, nats"]) == pytest.approx(1.37)
    assert float(row["forgetting of food, nats: half the interval"]) == pytest.approx(12.7062 * 0.01, rel=1e-4)
    assert row["forgetting of automotive, nats"] == ""
    named = [r | {"model": "=1+1"} for r in hostile_rows()]
    rows = export(write_report(write_run(tmp_path / "h", named)).as_uri(), "arms")
    assert HOSTILE.replace("\u202e", "\\u202e") in {row["arm"] for row in rows}
    assert "=1+1" not in {value for row in rows for value in row.values()}


@pytest.mark.slow
def test_lines_are_chosen_by_boxes(page, browser):
    browser.get(page)
    visible = (
        "return document.getElementById('plot-curves-1').data.filter(t => t.name === arguments[0]).map(t => t.visible)"
    )
    assert set(browser.execute_script(visible, "arm_1")) == {False}
    browser.execute_script("document.querySelector('#curves-1 details').open = true")
    box = browser.find_element("css selector", "#curves-1 input[data-name='arm_1']")
    box.send_keys(" ")
    assert set(browser.execute_script(visible, "arm_1")) == {True}
    browser.find_element("css selector", "#curves-1 button[data-all='']").click()
    assert set(browser.execute_script(visible, "plain")) == {False}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    colours = browser.execute_script("""
      const of = (element, name) => getComputedStyle(element)[name];
      const inks = ["h1", "figcaption", "td", ".xtick text", ".annotation-text", ".legendtext", ".sort"];
      return [of(document.body, "backgroundColor"),
        inks.map((s) => document.querySelector(s)).map((e) => of(e, e.closest("svg") ? "fill" : "color"))];
    """)
    background, inks = luminance(colours[0]), [luminance(ink) for ink in colours[1]]
    assert (background < 0.1) == (scheme == "dark")
    ratios = [(max(ink, background) + 0.05) / (min(ink, background) + 0.05) for ink in inks]
    assert min(ratios) > 4.5  # WCAG 2.2, AA


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [float(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
def test_nothing_is_wider_than_a_telephone_but_what_scrolls(page, browser):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_it_prints_with_everything_open(page, browser):
    browser.get(page)
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") > 4
    opened = browser.execute_script("""
      dispatchEvent(new Event("beforeprint"));
      const open = [...document.querySelectorAll("details.fold")].every((d) => d.open);
      dispatchEvent(new Event("afterprint"));
      return [open, document.querySelectorAll("details.fold[open]").length];
    """)
    assert opened == [True, 0]


@pytest.mark.slow
def test_one_gets_to_the_content_by_the_first_key(page, browser):
    from selenium.webdriver.common.keys import Keys

    browser.get(page)
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.get_attribute("class") == "skip" and skip.rect["x"] >= 0
    skip.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
