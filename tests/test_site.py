"""The site as a reader sees it: built, served on this machine and opened in a real browser.

    make docs-test

Needs mkdocs, playwright and a chromium (Debian's, or the path in ``CHROMIUM``).
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.site, pytest.mark.xdist_group("site"), pytest.mark.filterwarnings("default")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: its folder."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "there is no chromium; install Debian's, or name one in CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("response", lambda answer: page.faults.append(answer.url) if answer.status >= 400 else None)
    yield page
    page.close()


def names(site):
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "404.html")


def test_pages_are_readable(site, address, page):
    """No fault, no table or code wider than its page, no picture missing, no markup left over, code with colours."""
    for name in names(site):
        page.goto(f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        assert page.faults == [], name
        wide = page.evaluate("""() => [...document.querySelectorAll('article table')].map(table => {
            const wrap = table.closest('.md-typeset__scrollwrap') || table.parentElement;
            return [table.tHead?.innerText, wrap.scrollWidth - wrap.clientWidth]
        }).filter(([_, more]) => more > 1)""")
        assert wide == [], name
        cut = "() => [...document.querySelectorAll('article .highlight > pre > code')]"
        cut += ".filter(code => code.scrollWidth - code.clientWidth > 1).map(code => code.innerText)"
        assert page.evaluate(cut) == [], name
        broken = "() => [...document.querySelectorAll('article th code')]"
        broken += ".filter(code => code.getClientRects().length > 1).map(code => code.innerText)"
        assert page.evaluate(broken) == [], name
        missing = "() => [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
        assert page.evaluate(missing) == [], name
        text = page.inner_text("article")
        for rest in (":func:", ":meth:", ":class:", ":mod:", "```", "|---"):
            assert rest not in text, (name, rest)
        assert page.locator("article blockquote blockquote").count() == 0, name
        assert page.locator("article pre:not(.highlight pre)").count() == 0, name


def test_what_a_function_returns_is_one_item(address, page):
    """However many lines it takes in the docstring."""
    page.goto(f"{address}/reference.html")
    items = page.evaluate("""() => [...document.querySelectorAll('.doc-section-title')]
        .filter(title => title.innerText.startsWith('Returns'))
        .map(title => title.closest('p').nextElementSibling.children.length)""")
    assert len(items) > 10
    assert set(items) == {1}


def test_links_lead_somewhere(site, address, page):
    """Every link within the site, its fragment too."""
    targets = {}
    for name in names(site):
        page.goto(f"{address}/{name}")
        ids = page.evaluate("() => [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name)")
        links = page.evaluate("() => [...document.querySelectorAll('a[href]')].map(a => a.href)")
        targets[f"{address}/{name}"] = (set(ids), [link for link in links if link.startswith(address)])
    targets[f"{address}/"] = targets[f"{address}/index.html"]
    for start, (_, links) in targets.items():
        for link in links:
            place, fragment = urllib.parse.urldefrag(link)
            if place in targets:
                assert not fragment or urllib.parse.unquote(fragment) in targets[place][0], (start, link)
            else:
                assert (site / urllib.parse.unquote(place.removeprefix(address).lstrip("/"))).is_file(), (start, link)


@pytest.mark.parametrize("served", [True, False], ids=["served", "opened as a file"])
@pytest.mark.parametrize("word", ["stem", "BibTeX"])
def test_search_finds_a_word(word, served, site, address, page):
    page.goto(f"{address}/index.html" if served else (site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type(word)
    page.wait_for_selector(".md-search-result__item", timeout=60_000)
    found = page.locator(".md-search-result__item").first.inner_text()
    assert word.lower() in found.lower()


def test_a_page_that_is_not_there(site, page):
    page.goto((site / "404.html").as_uri())
    assert page.locator("article a[href$='start.html']").count() == 1


def test_long_tables_are_sorted_and_filtered(address, page):
    page.goto(f"{address}/models.html")
    table = page.locator("article table").first
    rows = table.locator("tbody tr:visible")
    count = rows.count()
    heading = table.locator("th", has_text="parameters")
    heading.click()
    smallest = rows.first.inner_text()
    heading.click()
    largest = rows.first.inner_text()
    assert sorted([smallest, largest], key=lambda row: "21,840" in row)[1].startswith("mnist_net")
    assert "143,678,248" in smallest + largest
    accuracy = table.locator("th", has_text="weights")
    accuracy.click()
    accuracy.click()
    assert rows.first.inner_text().startswith("inception_cnn")  # 99.67 %, the best
    page.locator(".table-filter").first.fill("resnet 18")
    assert 0 < rows.count() < count


def test_dark_mode_and_copying(address, page):
    page.goto(f"{address}/reference.html")
    assert page.locator("article pre code .gp").count() > 10  # prompts of examples, highlighted
    assert page.locator("article .md-clipboard, article .md-code__button").count() > 10
    before = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    page.locator("label[title='Dark mode']").first.click()
    page.wait_for_timeout(300)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != before


def test_the_notebook_runs():
    """docs/start.md, executed as a notebook: no cell fails, and pictures and tables show."""
    import notebook

    done = notebook.execute(notebook.build())
    shown = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "error" for output in shown)
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any("text/html" in output.get("data", {}) for output in shown)
