"""Whatever a service calls itself is text: nothing of it runs, nothing loads, in a real browser.

Each case is looked at twice: as it is, and with the Content-Security-Policy switched off, so that neither of the two defences hides
a hole in the other.
"""

from itertools import cycle
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser, Page

from luna_grpc.model import MAX_DESCRIPTION, MAX_NAME, MAX_VERSION
from luna_grpc.serve import running
from support import settings_for_tests
from visits import EVIL, Visit, Visits, visits_of

LIST = "/registry/v1/services/"
HOSTILE = [
    "<script>ran=1</script>",
    "</title></script><script>ran=1</script>",
    '"><img src=x onerror=ran=1>',
    "' onmouseover=ran=1 onfocus=ran=1 autofocus x='",
    '" onmouseover="ran=1" autofocus onfocus="ran=1',
    "<svg/onload=ran=1>",
    "--><!-- --!><script>ran=1</script>",
    "</style></textarea></pre><img src=x onerror=ran=1>",
    "javascript:ran=1",
    "&lt;script&gt;ran=1&lt;/script&gt;&#60;b&#62;",
    "{{7*7}}{% raw %}${7*7}#{7*7}<%= 7*7 %>",
    "a/../../b?c=d&e#f%2e%2e%2f;g",
    f"<base href=http://{EVIL}/>",
    f"<meta http-equiv=refresh content=0;url=http://{EVIL}/>",
    f"<link rel=stylesheet href=http://{EVIL}/x.css>",
    f"<iframe src=http://{EVIL}/></iframe>",
    f"<img src=//{EVIL}/x.png srcset=//{EVIL}/y.png>",
    f"<form action=http://{EVIL}/><input name=x autofocus>",
    "<style>*{display:none}</style>",
    "Bücher 本 עברית العربية 👩‍👩‍👧"[:17],
    "Z" + "\u0335\u0321\u031b\u0348" * 20 + "algo",
    "x" * MAX_NAME,
    "本" * MAX_NAME,
    "toString",
    "__proto__",
]
BIDI = "\u202egpj.exe\u202c \u2066x\u2069 \u200f\u200b\ufeff"
"""Allowed where people write text, and not in names."""
URLS = [
    'http://h/"onmouseover="ran=1',
    "http://h/'><script>ran=1</script>",
    "https://javascript:ran=1@h/</a><img/src=x/onerror=ran=1>",
    f"https://{EVIL}/\u4e00",
]
REFUSED = [
    "javascript:ran=1",
    "JAVASCRIPT:ran=1",
    "java\tscript:ran=1",
    " javascript:ran=1",
    "javascript://h/%0aran=1",
    "data:text/html,<script>ran=1</script>",
    "vbscript:ran=1",
    "//evil.example/",
    "http:javascript:ran=1",
    "blob:http://h/x",
    "file:///etc/passwd",
    "http://h/\u202e",
    "",
]


def instance(number: int, text: str, url: str) -> dict[str, Any]:
    """Return an instance that says the same hostile text in every field."""
    return {
        "instanceId": f"hostile-{number}:h:1",
        "name": text,
        "description": (text + BIDI + "\n\t" + text)[:MAX_DESCRIPTION],
        "version": text[:MAX_VERSION].strip(),
        "url": url,
        "status": "OK",
        "metadata": {text: text + BIDI, "on": 'x" onload="ran=1', "long": "w" * 1000},
    }


@pytest.fixture
async def hostile(rest: ClientSession) -> list[dict[str, Any]]:
    """Register one instance for each hostile text."""
    instances = [instance(number, text, URLS[number % len(URLS)]) for number, text in enumerate(HOSTILE)]
    for each in instances:
        response = await rest.post(f"/registry/v1/instances/{each['instanceId']}", json=each)
        assert response.status == 201, await response.text()
    return instances


async def touch_everything(visit: Visit) -> None:
    """Bring about what event handlers wait for."""
    await visit.page.evaluate(
        """() => { for (const element of document.querySelectorAll("body *"))
             for (const kind of ["mouseover", "mouseenter", "focus", "load", "error", "animationstart", "toggle"])
               element.dispatchEvent(new Event(kind, { bubbles: true })); }"""
    )


@pytest.mark.parametrize("bypass_csp", [False, True])
async def test_the_pages_of_the_panel(visit: Visits, hostile: list[dict[str, Any]], bypass_csp: bool) -> None:
    """The list shows every name as it is; each link leads to the page of that service, which shows everything else."""
    looking = await visit(bypass_csp=bypass_csp)
    await looking.goto(LIST)
    page = looking.page
    await touch_everything(looking)
    assert sorted(await page.locator("tbody a.open").all_text_contents()) == sorted(HOSTILE)
    assert sorted(await page.locator("tbody td bdi").all_text_contents()) == sorted(each["description"] for each in hostile)
    links = {await link.inner_text(): await link.get_attribute("href") for link in await page.locator("a.open").all()}
    await looking.assert_quiet()
    for number, each in enumerate(hostile):
        [link] = [href for href in links.values() if href == LIST + quote(each["name"], safe="")]
        assert link is not None
        await looking.goto(link)
        await touch_everything(looking)
        assert await page.locator("h1").text_content() == each["name"]
        assert await page.title() == " ".join(f"{each['name']} · Luna".split())
        assert await page.locator(".description").text_content() == each["description"]
        assert await page.locator("td[data-label=Version]").text_content() == each["version"]
        assert await chips(page) == [[key, value] for key, value in each["metadata"].items()]
        address = page.locator("td[data-label=URL] a")
        assert await address.text_content() == each["url"] == URLS[number % len(URLS)]
        assert (await address.evaluate("link => link.protocol")) in {"http:", "https:"}
        await looking.assert_quiet()


async def chips(page: Page) -> list[list[str]]:
    """Return the metadata that a page shows."""
    return [await chip.locator("bdi").all_text_contents() for chip in await page.locator(".chips li").all()]


@pytest.mark.parametrize("bypass_csp", [False, True])
async def test_the_pages_of_instances_and_the_journal(visit: Visits, hostile: list[dict[str, Any]], bypass_csp: bool) -> None:
    """Everything that an instance says of itself, and what happened to it, is text there too."""
    looking = await visit(bypass_csp=bypass_csp)
    page = looking.page
    for number, each in enumerate(hostile):
        await looking.goto(f"/registry/v1/instances/{each['instanceId']}")
        await touch_everything(looking)
        said = {await row.locator("dt").inner_text(): row.locator("dd") for row in await page.locator(".facts > div").all()}
        for name, field in (("Service", "name"), ("Description", "description"), ("Version", "version"), ("URL", "url")):
            assert await said[name].text_content() == each[field]
        assert (await said["URL"].locator("a").evaluate("link => link.protocol")) in {"http:", "https:"}
        assert await chips(page) == [[key, value] for key, value in each["metadata"].items()]
        assert await page.locator("nav bdi").text_content() == HOSTILE[number]
        await looking.assert_quiet()
    await looking.goto("/registry/v1/journal")
    await touch_everything(looking)
    assert sorted(await page.locator("td[data-label=Service]").all_text_contents()) == sorted(HOSTILE)
    await looking.assert_quiet()


@pytest.mark.parametrize("bypass_csp", [False, True])
async def test_what_is_searched_for(visit: Visits, hostile: list[dict[str, Any]], bypass_csp: bool) -> None:
    """It stands in the box, in the words about what was found, and in links; each finds the service that is called so."""
    assert hostile
    looking = await visit(bypass_csp=bypass_csp)
    page = looking.page
    for text in HOSTILE:
        await looking.goto(f"{LIST}?q={quote(text, safe='')}&sort={quote(text, safe='')}")
        await touch_everything(looking)
        assert await page.get_by_role("searchbox").input_value() == text
        assert await page.locator(".narrowed q").text_content() == text
        assert text in await page.locator("tbody a.open").all_text_contents()
        await page.get_by_role("button", name="Search").click()
        assert text in await page.locator("tbody a.open").all_text_contents()
        await looking.assert_quiet()


@pytest.mark.parametrize("bypass_csp", [False, True])
async def test_pages_of_errors(visit: Visits, bypass_csp: bool) -> None:
    """What the address held is told as text."""
    looking = await visit(bypass_csp=bypass_csp)
    for text, path in zip(HOSTILE, cycle((LIST, "/registry/v1/instances/", "/nowhere/")), strict=False):
        await looking.goto(path + quote(text, safe=""))
        assert await looking.page.locator("h1").text_content() in {"Not found", "That did not work"}
        await touch_everything(looking)
    await looking.assert_quiet()


async def test_json_in_a_browser(visit: Visits, hostile: list[dict[str, Any]]) -> None:
    """It is shown as what it is."""
    looking = await visit(bypass_csp=True)
    for path in (
        "/registry/v1/services/json",
        f"/registry/v1/instances/{hostile[0]['instanceId']}?format=json",
        "/registry/v1/journal?format=json",
    ):
        await looking.goto(path)
        assert await looking.page.evaluate("document.contentType") == "application/json"
        assert await looking.page.locator("script, img, iframe, link").count() == 0
        await looking.assert_quiet()


@pytest.mark.parametrize("url", REFUSED)
async def test_urls_that_a_browser_would_run_or_load_are_not_taken(rest: ClientSession, url: str) -> None:
    """Links of the panel lead to http and https only."""
    said = instance(1, "x", url)
    response = await rest.post("/registry/v1/instances/hostile-1:h:1", json=said)
    assert (response.status, (await response.json())["field"]) == (400, "url")


@pytest.mark.parametrize("bypass_csp", [False, True])
async def test_the_page_to_try_the_api(visit: Visits, hostile: list[dict[str, Any]], bypass_csp: bool) -> None:
    """Answers are text there, JSON and pages alike; so is what someone types."""
    looking = await visit(bypass_csp=bypass_csp)
    await looking.goto("/registry/v1/docs")
    page = looking.page
    for operation in ("listServices", "showServices"):
        for accept in ("application/json", "text/html"):
            form = page.locator(f"#{operation} form")
            if operation == "showServices":
                await form.locator("select").select_option(accept)
            await form.get_by_role("button", name="Send").click()
            await form.get_by_text("200 OK").wait_for()
            body = await form.locator(".received .body").text_content()
            assert body is not None
            assert body.startswith("[" if operation == "listServices" or accept == "application/json" else "<!doctype html>")
            if body.startswith("["):
                assert all(each["url"] in body.replace('\\"', '"') for each in hostile)
            await touch_everything(looking)
            await looking.assert_quiet()
    form = page.locator("#getInstance form")
    for text in (*HOSTILE, BIDI, "$(touch x) `touch x` ' \" \\ !"):
        await form.locator("input").fill(text)
        assert quote(text, safe="") in (await form.locator(".command code").text_content() or "")
        async with page.expect_response(lambda response: "/instances/" in response.url) as answer:
            await form.get_by_role("button", name="Send").click()
        assert (await answer.value).status in {400, 404}
        await form.locator(".status.bad").wait_for()
    await looking.assert_quiet()


@pytest.mark.parametrize("user", ['"><img src=x onerror=ran=1>', "' onmouseover=ran=1 x='", "{{7*7}}</code><script>ran=1</script>"])
async def test_a_hostile_user_name(browser: Browser, user: str) -> None:
    """It stands in the commands of both pages."""
    async with (
        running(settings_for_tests(auth_username=user)) as server,
        visits_of(browser, f"http://127.0.0.1:{server.rest_port}") as visit,
    ):
        looking = await visit(user, bypass_csp=True)
        for path in (LIST, "/registry/v1/docs"):
            await looking.goto(path)
            await touch_everything(looking)
            assert user in (await looking.page.locator("main").text_content() or "").replace("'\"'\"'", "'")
            await looking.assert_quiet()


@pytest.mark.parametrize(
    "path",
    [
        LIST,
        LIST + quote(HOSTILE[0], safe=""),
        "/registry/v1/instances/hostile-21:h:1",
        "/registry/v1/journal",
        "/registry/v1/docs",
        "/nowhere",
    ],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_nothing_is_pushed_out_of_the_window(
    visit: Visits, hostile: list[dict[str, Any]], path: str, scheme: str, width: int
) -> None:
    """However long a name is and however narrow the window."""
    assert hostile
    looking = await visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    await looking.goto(path)
    assert await looking.page.evaluate("document.documentElement.scrollWidth") <= width
    await looking.assert_quiet()


async def test_the_browser_tells_of_what_runs_and_loads(visit: Visits) -> None:
    """The tests above can fail: what they look for is noticed, and what the policy forbids is forbidden."""
    put = f"""() => {{ document.body.insertAdjacentHTML("beforeend",
        "<img src=x onerror=ran=1><img src=http://{EVIL}/x.png>");
        const script = document.createElement("script"); script.textContent = "ran=1; alert(1)"; document.body.append(script); }}"""
    strict = await visit()
    await strict.goto(LIST)
    async with strict.page.expect_console_message(lambda message: EVIL in message.text):
        await strict.page.evaluate(put)
    assert await strict.page.evaluate("typeof window.ran") == "undefined"
    assert (strict.ran, strict.foreign) == ([], [])
    assert len(strict.complaints) >= 3
    loose = await visit(bypass_csp=True)
    await loose.goto(LIST)
    async with loose.page.expect_request(f"http://{EVIL}/x.png"):
        await loose.page.evaluate(put)
    await loose.page.wait_for_function("window.ran === 1")
    assert loose.ran == ["1"]
    assert loose.foreign == [f"http://{EVIL}/x.png"]
