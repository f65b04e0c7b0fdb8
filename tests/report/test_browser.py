# SPDX-License-Identifier: Apache-2.0
"""The page in a real headless Chromium: quiet, within its width, readable, printable."""

import shutil

import pytest

from fusetune.report.contents import gather
from fusetune.report.html import render
from picture_runs import boxes_run, masks_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# WCAG 2: contrast of every element's own text with the first opaque background behind it.
CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
      if (color[3] !== 0) throw new Error('half-transparent background of ' + e.className);
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!own || element.closest('.hidden, script, title')) continue;
    const style = getComputedStyle(element);
    const ink = element.closest('svg') ? style.fill : style.color;
    const pair = [light(parse(ink)), light(behind(element))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.tagName, own.slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        pytest.skip("no Chromium is installed here")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Open a page; afterwards nothing but the file may have been asked for, and nothing said."""
    opened, requests, complaints = [], [], []

    def open_page(path, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in opened:
        page.close()
    assert not complaints
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert len([url for url in requests if url.startswith("file:")]) == len(opened)


@pytest.fixture
def crowded_page(make_run):
    """Twelve members with long names, a hundred classes, a failed member, larger images."""
    folder = make_run(
        members=tuple(
            f"timm-a_rather_long_architecture_name.of_a_checkpoint_{i}" for i in range(12)
        ),
        classes=tuple(f"class with a longer name {i}" for i in range(100)),
        failed={"torchvision-" + "x" * 60: "failed"},
        error="CUDA_" + "out_of_memory_" * 20,
        num_rows=500,
        side=48,
    )
    page = folder / "report.html"
    page.write_text(render(gather(folder)), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def picture_pages(tmp_path_factory):
    """Pages of detection, with long names and many boxes, and of segmentation."""
    folder = tmp_path_factory.mktemp("pictures")
    pages = []
    for run in (boxes_run(folder / "boxes", members=6, objects=8), masks_run(folder / "masks")):
        pages.append(run / "report.html")
        pages[-1].write_text(render(gather(run)), encoding="utf-8")
    return pages


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_the_page_never_scrolls_sideways(visit, demo_page, crowded_page, picture_pages, width):
    for path in (demo_page, crowded_page, *picture_pages):
        page = visit(path, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(visit, demo_page, scheme):
    page = visit(demo_page, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert [one for one in found if one[0] < 4.5] == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_beside_and_on_pictures_is_readable(visit, picture_pages, scheme):
    for path in picture_pages:
        found = visit(path, scheme=scheme).evaluate(CONTRASTS)
        assert len(found) > 50
        assert [one for one in found if one[0] < 4.5] == []


@pytest.mark.parametrize("width", [375, 1280])
def test_boxes_lie_on_their_image(visit, picture_pages, width):
    """Each picture shows its image in its shape, and boxes where their shares of it say."""
    page = visit(picture_pages[0], width)
    panel = page.locator("svg.boxes").first
    assert panel.get_attribute("aria-label").count(": ") > 1
    outer = panel.bounding_box()
    assert outer["width"] == pytest.approx(outer["height"], rel=0.02)
    image = panel.locator("use").evaluate(
        "use => { const box = use.getBoundingClientRect(); return [box.width, box.height]; }"
    )
    assert image == pytest.approx([outer["width"], outer["height"]], rel=0.02)
    rect = panel.locator("g rect").first
    share = float(rect.get_attribute("x").rstrip("%")) / 100
    left = rect.evaluate("rect => rect.getBBox().x")
    assert left == pytest.approx(share * outer["width"], abs=0.5)
    colors = page.locator("svg.boxes").evaluate_all(
        "all => all.flatMap(svg => [...svg.querySelectorAll('g rect')]).map("
        "rect => getComputedStyle(rect).stroke)"
    )
    assert len(set(colors)) == 3  # one for each class


def test_the_recipe_unfolds(visit, demo_page):
    page = visit(demo_page)
    recipe = page.locator("pre")
    assert not recipe.is_visible()
    page.locator("#recipe details summary").click()
    assert recipe.is_visible()
    page.locator("#recipe details summary").click()
    assert not recipe.is_visible()


def test_paper_is_white_and_shows_what_is_folded(visit, demo_page):
    page = visit(demo_page, scheme="dark")
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
    assert not page.locator("#recipe details").evaluate("details => details.open")  # folded again
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("pre").is_visible()
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 within its margins
    wide = """[...document.querySelectorAll('.scroll')].filter(
        box => box.scrollWidth > box.clientWidth + 1).map(box => box.ariaLabel)"""
    assert page.evaluate(wide) == []  # paper cannot be scrolled


def test_images_of_few_pixels_stay_sharp(visit, demo_page):
    page = visit(demo_page)
    image = page.locator(".card img").first
    assert image.evaluate("image => image.complete && image.naturalWidth") == 8
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert image.bounding_box()["height"] > 80


def test_labels_of_plots_do_not_overlap(visit, demo_page):
    """Texts within one plot, at the width of a phone, where room is scarcest."""
    page = visit(demo_page, 375)
    overlaps = page.evaluate("""() => [...document.querySelectorAll('svg')].flatMap(svg => {
      const boxes = [...svg.querySelectorAll(':scope > text')].map(t => [t.textContent, t.getBoundingClientRect()]);
      return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
        p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3
      ).map(([b]) => [a, b]));
    })""")
    assert overlaps == []
