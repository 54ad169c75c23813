#!/usr/bin/env python3
"""The page /ui/ in a headless Chromium, on a live cluster of three nodes: every view by keyboard and by eye of axe, hostile values, an
edit conflict, the death of the node asked, 10 000 keys, tokens, small windows. Screenshots go to target/ui.

What it needs: Chromium (`chromium` on the path, or CHROMIUM), and playwright and axe-playwright-python, which scripts/tools.sh
installs under target/tools.

Usage: target/tools/bin/python scripts/ui_test.py [BINARY]
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(sys.argv[1] if len(sys.argv) > 1 else TARGET / "debug/huskv").resolve()
SHOTS = TARGET / "ui"
VIEWS = ["cluster", "timeline", "load", "keys", "members"]
# On a busy machine, in milliseconds.
LONG = 30_000

HOSTILE = {
    "<img src=x onerror=window.hit=1>": "<script>window.hit=1</script><img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>': "javascript:window.hit=1",
    "__proto__": "constructor",
    "a\nb\u202etxt": "\u202eright to left\u2066",
    "empty//segments": "&lt;b&gt;&amp;",
    "../up": "%3Cscript%3E",
    "slash/": "'; rm -rf / #`$(id)`",
    "\U0001f600 and a space+plus%25": "\U0001f600",
    " ": "\x1b[31mred\x00\r\nnext\tline",
}


class Node:
    """A node as a process, on ports that the system picks."""

    def __init__(self, home, name, **settings):
        self.name, self.directory = name, home / name
        self.log = open(home / f"{name}.log", "wb")
        environment = {"PATH": os.environ["PATH"], "SERVER_PORT": "0", "RAFT_PORT": "0", "RAFT_NODE_ID": name, "RAFT_VOL_DIR": str(self.directory)}
        self.process = subprocess.Popen([BINARY], env={**environment, **settings}, stderr=self.log, stdin=subprocess.DEVNULL)
        addresses = until(lambda: self.addresses(), f"{name} has addresses")
        self.http, self.raft = addresses["http"], addresses["raft"]
        self.url = f"http://{self.http}"
        until(lambda: self.ask("GET", "/livez")[0] == 200, f"{name} lives")

    def addresses(self):
        try:
            return json.loads((self.directory / "addresses.json").read_text())
        except (OSError, ValueError):
            return None

    def ask(self, method, path, body=None, **headers):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def put(self, key, value, content_type="text/plain; charset=utf-8"):
        status, answer = self.ask("PUT", "/store/" + urllib.parse.quote(key, safe=""), value.encode(), **{"Content-Type": content_type})
        assert status == 200, (key, status, answer)
        return json.loads(answer)["data"]["version"]

    def kill(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait()


def until(check, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s: {what}")


class Browser:
    """Pages whose console and requests are watched."""

    def __init__(self, playwright):
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        # As root Chromium has no sandbox; it opens no page but those of this test.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.chromium = playwright.chromium.launch(executable_path=path, args=flags)

    def page(self, origin, expected=(), width=1280, height=860, scheme="light"):
        context = self.chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(LONG)
        page = context.new_page()
        page.problems, page.origin = [], origin

        def console(message):
            # Chromium reports each answer that is no success as an error; some are what a test is about.
            refusal = message.text.startswith("Failed to load resource") and any(word in message.text for word in expected)
            if message.type in ("error", "warning") and not refusal:
                page.problems.append(f"console: {message.text}")

        def request(asked):
            if not asked.url.startswith((page.origin + "/", "data:")):
                page.problems.append(f"request elsewhere: {asked.url}")

        page.on("console", console)
        page.on("pageerror", lambda error: page.problems.append(f"error: {error}"))
        page.on("request", request)
        return page


def close(page):
    assert not page.problems, page.problems
    page.context.close()


def show(page, view):
    page.goto(f"{page.origin}/ui/#{view}")
    page.wait_for_selector(f"main[data-view={view.split('?')[0]}] h1")
    ready = {"cluster": "tbody tr", "members": "tbody tr", "timeline": ".log li", "load": ".chart svg", "keys": ".names"}
    page.wait_for_selector("main " + ready[view.split("?")[0]])


def no_violation(page, what):
    found = Axe().run(page).response["violations"]
    text = [f"{one['id']}: {one['help']}: {[node['html'][:150] + ' ' + (node.get('failureSummary') or '') for node in one['nodes'][:3]]}" for one in found]
    assert not found, f"{what}: " + "\n".join(text)


def fits(page, what):
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"{what}: {wide[0]} px in a window of {wide[1]}"


# ---- the cases ----


def every_view_is_accessible_and_fits(browser, nodes):
    made_up = made_up_answers(nodes)
    for scheme in ("light", "dark"):
        for width, height in ((1280, 860), (640, 430), (360, 740)):
            page = browser.page(nodes[0].url, width=width, height=height, scheme=scheme)
            for path, answer in made_up.items():
                body = json.dumps({"data": answer, "message": "made up"})
                page.route(lambda url, path=path: urllib.parse.urlsplit(url).path == path, lambda route, _asked, body=body: route.fulfill(body=body, content_type="application/json"))
            show(page, "cluster")
            page.wait_for_selector("main >> text=5021887459180275319")  # A narrow window hides the one in the header.
            for view in ["cluster", "timeline", "load", "keys?prefix=config%2F&key=config%2Flimits", "members"]:
                name = view.split("?")[0]
                show(page, view)
                if name == "keys":
                    page.wait_for_selector(".value:not(.hex)")
                page.wait_for_timeout(300)
                what = f"{name}, {scheme}, {width} px"
                no_violation(page, what)
                fits(page, what)
                page.screenshot(path=SHOTS / f"{name}-{scheme}-{width}.png", full_page=width < 1000)
            dialogs_are_accessible(page, scheme)
            close(page)


def dialogs_are_accessible(page, scheme):
    page.goto(f"{page.origin}/ui/#keys?prefix=config%2F&key=config%2Flimits")
    for name, wait in (("Edit", "textarea"), ("Cancel", ".value"), ("Delete\u2026", "dialog[open]")):
        page.get_by_role("button", name=name, exact=True).first.click()
        page.wait_for_selector(wait)
        page.wait_for_timeout(100)
        no_violation(page, f"after {name}, {scheme}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New key").click()
    page.wait_for_selector("textarea")
    no_violation(page, f"new key, {scheme}")
    page.get_by_role("button", name="Token").click()
    page.wait_for_selector("dialog[open]")
    no_violation(page, f"token, {scheme}")


def every_view_lives(browser, nodes):
    """Against the nodes as they are, with nothing made up."""
    page = browser.page(nodes[1].url)
    page.goto(nodes[1].url + "/")
    assert page.url.startswith(nodes[1].url + "/ui/"), page.url
    for view in VIEWS:
        show(page, view)
    show(page, "cluster")
    page.wait_for_selector("text=One more node may fail")
    page.wait_for_selector("tbody tr:nth-child(3)")
    assert page.locator("tbody .chip", has_text="leader").count() == 1
    show(page, "timeline")
    page.wait_for_selector("text=Leader:")
    close(page)


def the_timeline_merges_all_nodes(browser, nodes):
    page = browser.page(nodes[1].url)
    show(page, "timeline")
    page.wait_for_selector("text=Leader:")
    names = lambda: set(page.locator(".log li b").all_inner_texts())
    assert names() == {"node1", "node2", "node3"}, names()
    times = page.locator(".log li time").evaluate_all("all => all.map((one) => one.dateTime)")
    assert times == sorted(times, reverse=True), "the newest first"
    page.locator("label.field", has_text="Node").locator("select").select_option("node3")
    assert names() == {"node3"}, names()
    page.get_by_label("About").select_option("starts and stops")
    page.wait_for_selector(".log .chip >> text=started")
    assert page.locator(".log li").count() == 1
    page.get_by_label("About").select_option("")
    page.locator("label.field", has_text="Node").locator("select").select_option("")
    # What happens on another node arrives without a reload.
    status, answer = nodes[0].ask("POST", "/raft/join", {"node_id": "node9", "raft_address": "127.0.0.1:1"})
    assert status == 502, answer
    page.locator(".log li", has_text="join refused").first.wait_for()
    # A node that stands still is named, and its events come when it goes on.
    os.kill(nodes[2].process.pid, signal.SIGSTOP)
    try:
        page.wait_for_selector("text=Without the events of node3")
    finally:
        os.kill(nodes[2].process.pid, signal.SIGCONT)
    page.wait_for_selector("text=Without the events of node3", state="detached")
    close(page)


def the_timeline_of_an_earlier_version_is_that_of_its_node(browser, nodes):
    page = browser.page(nodes[1].url, expected=["404"])
    page.route(lambda url: urllib.parse.urlsplit(url).path == "/cluster/events", lambda route, _asked: route.fulfill(status=404, body="{}", content_type="application/json"))
    show(page, "timeline")
    page.wait_for_selector("text=Every node keeps its own events")
    assert set(page.locator(".log li b").all_inner_texts()) == {"node2"}
    assert page.locator("main .dim a").all_inner_texts() == ["node1", "node3"]
    close(page)


def focused(page):
    """The element with the focus, which must be seen to have it."""
    return page.evaluate("""() => {
        const one = document.activeElement, style = getComputedStyle(one);
        const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
        return { text: (one.getAttribute("aria-label") || one.innerText || one.closest("label")?.innerText || "").trim(), tag: one.tagName, seen };
    }""")


def tab_to(page, text, tag=None, limit=80):
    for _ in range(limit):
        page.keyboard.press("Tab")
        now = focused(page)
        if now["tag"] == "BODY":
            continue
        assert now["seen"], f"no visible focus: {now}"
        if now["text"].startswith(text) and tag in (None, now["tag"]):
            return now
    raise AssertionError(f"Tab does not lead to {text!r}")


def press(page, text, tag=None):
    tab_to(page, text, tag)
    page.keyboard.press("Enter")


def the_whole_tour_works_by_keyboard(browser, nodes):
    nodes[0].put("tour/one", "1")
    nodes[0].put("tour/two", "2")
    page = browser.page(nodes[0].url)
    page.goto(nodes[0].url + "/ui/")
    page.wait_for_selector("main h1")
    page.keyboard.press("Tab")
    assert focused(page)["text"] == "Skip to the view" and focused(page)["seen"]
    for view in ("Timeline", "Load", "Members", "Keys"):
        page.evaluate("document.activeElement.blur()")
        press(page, view, "A")
        page.wait_for_function("name => document.activeElement.tagName === 'H1' && document.activeElement.innerText === name", arg=view)
    tab_to(page, "Prefix", "INPUT")
    page.keyboard.type("tour/")
    page.keyboard.press("Enter")
    page.wait_for_selector(".names button >> text=two")
    press(page, "one", "BUTTON") if focused(page)["text"] != "one" else page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.innerText === 'tour/one'")
    page.locator(".names button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.innerText === 'tour/two'")
    press(page, "Edit", "BUTTON")
    page.wait_for_selector("textarea:focus")
    page.keyboard.press("Control+A")
    page.keyboard.type("by keyboard")
    press(page, "Save", "BUTTON")
    page.wait_for_selector("text=Saved as version")
    assert nodes[0].ask("GET", "/store/tour/two?raw")[1] == b"by keyboard"
    press(page, "Delete", "BUTTON")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1, "without the name nothing is deleted"
    page.keyboard.type("tour/two")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Deleted tour/two")
    assert nodes[0].ask("GET", "/store/tour/two")[0] == 404
    press(page, "New key", "BUTTON")
    page.wait_for_selector("input:focus")
    page.keyboard.type("new")
    tab_to(page, "Value", "TEXTAREA")
    page.keyboard.type("fresh")
    press(page, "Create", "BUTTON")
    page.wait_for_selector("text=Created, version")
    assert nodes[0].ask("GET", "/store/tour/new?raw")[1] == b"fresh"
    press(page, "Watch live", "BUTTON")
    page.wait_for_selector("text=Watching tour/")
    nodes[1].put("tour/live", "seen")
    page.wait_for_selector(".feed >> text=tour/live")
    page.wait_for_selector(".names button >> text=live")
    close(page)


def hostile_names_and_values_stay_text(browser, nodes):
    for key, value in HOSTILE.items():
        nodes[0].put(key, value)
    page = browser.page(nodes[0].url)
    for key, value in HOSTILE.items():
        show(page, "keys?" + urllib.parse.urlencode({"prefix": key[:2], "key": key}))
        # What is not seen, or turns the direction, is written out.
        written = re.sub("[\x00\x1b\u202e\u2066]", lambda one: f"\\u{{{ord(one[0]):x}}}", value)
        page.wait_for_function("value => document.querySelector('pre.value')?.textContent === value", arg=written)
        assert ("cannot be seen" in page.locator("main").inner_text()) == (written != value), key
        page.wait_for_function("() => document.querySelectorAll('.names button').length > 0")
        assert all(name.strip() for name in page.locator(".names button bdi").all_inner_texts()), key
        assert "\u202e" not in page.locator(".names").inner_text() + page.locator("h2.title").inner_text()
    show(page, "keys")
    page.wait_for_selector(".names button >> nth=3")
    page.get_by_role("button", name="Watch live").click()
    page.wait_for_selector("text=Watching all keys")
    for key, value in HOSTILE.items():
        nodes[1].put(key, value + " ")
    page.wait_for_function("count => document.querySelectorAll('.feed li').length >= count", arg=len(HOSTILE))
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main script, main svg[onload]").count() == 0
    close(page)


def an_edit_of_a_key_that_changed_shows_both_texts(browser, nodes):
    nodes[0].put("conflict", "base")
    page = browser.page(nodes[0].url, expected=["412"])
    show(page, "keys?prefix=conflict&key=conflict")
    page.get_by_role("button", name="Edit").click()
    page.locator("textarea").fill("my text")
    version = nodes[1].put("conflict", "their text")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=412 precondition_failed")
    page.wait_for_selector(f"text=Theirs, version {version}")
    texts = page.locator(".two pre").all_inner_texts()
    assert texts == ["their text", "my text"], texts
    no_violation(page, "conflict")
    page.screenshot(path=SHOTS / "conflict.png")
    assert nodes[0].ask("GET", "/store/conflict?raw")[1] == b"their text"
    page.get_by_role("button", name="Write mine over it").click()
    page.wait_for_selector("text=Saved as version")
    assert nodes[0].ask("GET", "/store/conflict?raw")[1] == b"my text"
    page.get_by_role("button", name="New key").click()
    page.get_by_role("textbox", name="Key", exact=True).fill("conflict")
    page.get_by_role("button", name="Create").click()
    page.wait_for_selector("text=412 precondition_failed")
    close(page)


def a_value_saved_as_it_was_keeps_its_bytes(browser, nodes):
    page = browser.page(nodes[0].url)
    for value in ["one\r\ntwo\r\n", "one\rtwo\nthree\r\n", "\ufeffa\x00b \n"]:
        version = nodes[0].put("lines", value)
        show(page, "keys?" + urllib.parse.urlencode({"prefix": "lines", "key": "lines", "try": version}))
        page.wait_for_selector(f".facts >> text={version}")
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("button", name="Save").click()
        page.wait_for_selector("text=Saved as version")
        assert nodes[0].ask("GET", "/store/lines?raw")[1] == value.encode(), value
    nodes[0].put("lines", "one\r\ntwo")
    page.get_by_role("button", name="Reload").click()
    page.wait_for_selector("pre.value >> text=two")
    page.get_by_role("button", name="Edit").click()
    page.locator("textarea").fill("one\ntwo\nthree")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=Saved as version")
    assert nodes[0].ask("GET", "/store/lines?raw")[1] == b"one\r\ntwo\r\nthree"
    close(page)


def refusals_of_membership_are_shown_with_their_code(browser, nodes):
    page = browser.page(nodes[0].url, expected=["502", "404", "409"])
    show(page, "members")
    page.get_by_label("Name").fill("node9")
    page.get_by_label("Raft address").fill("127.0.0.1:1")
    page.get_by_role("button", name="Join", exact=True).click()
    page.wait_for_selector("text=502 unreachable")
    page.get_by_role("button", name="Take a snapshot").click()
    page.wait_for_selector(".note.good")
    page.get_by_role("button", name=f"Make {nodes[2].name} the leader").click()
    page.wait_for_selector(f"tr:has-text('{nodes[2].name}') >> text=leader")
    page.get_by_role("button", name=f"Make {nodes[0].name} the leader").click()
    page.wait_for_selector(f"tr:has-text('{nodes[0].name}') >> text=leader")
    close(page)


def a_removed_node_says_so_and_offers_no_change(browser, nodes):
    gone = Node(nodes[0].directory.parent, "node4")
    member = {"node_id": gone.name, "raft_address": gone.raft}
    try:
        assert nodes[0].ask("POST", "/raft/join", member)[0] == 200
        page = browser.page(gone.url)
        show(page, "members")
        offers = page.locator("main").get_by_role("button")
        page.get_by_role("button", name="Make node1 the leader").wait_for()
        assert nodes[0].ask("POST", "/raft/remove", {"node_id": gone.name})[0] == 200
        page.wait_for_selector("main .note >> text=This node was removed from its cluster")
        assert gone.raft in page.locator("main .note").inner_text()
        assert page.locator("main .note a").all_inner_texts() == ["node1", "node2", "node3"]
        assert offers.count() == 0, offers.all_inner_texts()
        no_violation(page, "a removed node")
        page.screenshot(path=SHOTS / "removed.png")
        # Joined again, it is as before.
        assert nodes[0].ask("POST", "/raft/join", member)[0] == 200
        page.get_by_role("button", name="Make node1 the leader").wait_for()
        assert page.locator("main .note").count() == 0
        close(page)
    finally:
        nodes[0].ask("POST", "/raft/remove", {"node_id": gone.name})
        gone.kill()


def ten_thousand_keys_page_at_once(browser, nodes):
    for first in range(0, 10_000, 125):
        then = [{"op": "put", "key": f"many/{n:05}", "value": n} for n in range(first, first + 125)]
        assert nodes[0].ask("POST", "/txn", {"then": then})[0] == 200
    page = browser.page(nodes[0].url)
    show(page, "keys?prefix=many%2F")
    page.wait_for_selector(".names button >> nth=199")
    took = []
    for number in range(2, 22):
        page.get_by_role("button", name="Next page").click()
        page.wait_for_selector(f"text=page {number}, 200 names")
        took.append(float(page.locator(".names").get_attribute("data-took")))
    assert page.locator(".names button").first.inner_text() == "04000"
    print(f"  a page of 200 of 10 000 keys: best {min(took):.0f} ms, median {sorted(took)[10]:.0f} ms")
    # The best of twenty: the machine has other work.
    assert min(took) < 100, took
    page.get_by_role("button", name="Previous page").click()
    page.wait_for_selector("text=page 20, 200 names")
    page.get_by_label("Search in names").fill("09999")
    page.get_by_role("button", name="Search").click()
    page.wait_for_selector(".names button >> text=many/09999")
    show(page, "keys")
    # However many keys are in a folder, it is one row.
    page.wait_for_selector(".names button >> text=many/")
    assert page.locator(".names button", has_text="many/").count() == 1
    close(page)


def other_sites_may_link_to_the_page_and_read_nothing(browser, nodes):
    page = browser.page(nodes[0].url)
    port = nodes[1].http.rsplit(":", 1)[1]
    page.origin = f"http://localhost:{port}"
    show(page, "cluster")
    page.origin = nodes[0].url
    page.evaluate("to => { location.href = to }", f"{nodes[0].url}/ui/#keys")
    page.wait_for_selector("main[data-view=keys] .names")
    close(page)
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert nodes[0].ask("GET", "/ui/", **foreign)[0] == 200
    assert nodes[0].ask("GET", "/store", **foreign)[0] == 403
    assert nodes[0].ask("GET", "/ui/", **{**foreign, "Sec-Fetch-Dest": "iframe"})[0] == 403
    assert nodes[0].ask("GET", "/ui/", Origin="http://evil.example")[0] == 403


def a_token_is_asked_for_and_stays_in_the_tab(browser, home):
    made = subprocess.run([BINARY, "token", "new", "root", "--admin"], capture_output=True, text=True, check=True).stdout
    secret, table = made.split("\n", 1)
    tokens = home / "tokens.toml"
    tokens.write_text(table)
    tokens.chmod(0o600)
    node = Node(home, "guarded", HUSKV_AUTH_TOKENS=str(tokens))
    try:
        until(lambda: node.ask("GET", "/readyz")[0] == 200, "the node is ready")
        page = browser.page(node.url, expected=["401"])
        page.goto(node.url + "/ui/#keys")
        page.wait_for_selector("dialog[open] >> text=this node wants a token")
        page.locator("dialog input[type=password]").fill(secret)
        page.get_by_role("button", name="Use it").click()
        page.wait_for_selector("text=The store has no keys")
        page.reload()
        page.wait_for_selector("text=The store has no keys")
        assert secret not in page.url and page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
        assert secret not in page.content()
        close(page)
    finally:
        node.kill()


def the_death_of_the_node_asked_is_said_and_another_is_offered(browser, nodes):
    page = browser.page(nodes[0].url, expected=["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING"])
    show(page, "cluster")
    page.wait_for_selector("tbody tr:nth-child(3)")
    nodes[0].kill()
    page.wait_for_selector("#banner >> text=node1 does not answer")
    page.wait_for_timeout(300)
    no_violation(page, "a dead node")
    page.screenshot(path=SHOTS / "dead.png")
    # In every view, and a list that failed counts no names.
    for view in [*VIEWS[1:], VIEWS[0]]:
        page.evaluate("view => { location.hash = view }", view)
        page.wait_for_selector(f"main[data-view={view}] h1")
        if view == "keys":
            page.wait_for_selector("main .note.bad >> text=no_answer")
            assert "page 1" not in page.locator("main").inner_text()
        said = page.locator("#banner").inner_text()
        assert re.search(r"as of \d\d:\d\d:\d\d or before", said), (view, said)
    page.origin = nodes[1].url
    page.get_by_role("link", name="the page of node2").click()
    page.wait_for_selector("tbody tr:nth-child(3)")
    page.wait_for_selector("text=unreachable")
    close(page)


def the_demo_shows_a_leader_die_by_keyboard(browser, home):
    ports = [next(port for port in range(first, first + 1_900, 5) if all(map(is_free, range(port, port + 4)))) for first in (24_100, 26_100, 28_100)]
    log = open(home / "demo.log", "wb")
    command = [BINARY, "demo", "--dir", home / "demo", "--http-from", str(ports[0]), "--raft-from", str(ports[1]), "--page-port", str(ports[2])]
    demo = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{ports[2]}"
        until(lambda: b"Ctrl-C" in (home / "demo.log").read_bytes(), "the demo has joined its nodes")
        for scheme, width in (("dark", 360), ("light", 1280)):
            page = browser.page(url, width=width, height=860, scheme=scheme, expected=["502", "503"])
            show(page, "cluster")
            page.wait_for_selector(".demo-nodes li:nth-child(3) .chip >> text=runs")
            page.wait_for_selector("tbody tr:nth-child(3)")
            no_violation(page, f"the demo, {scheme}")
            fits(page, f"the demo, {scheme}")
            page.screenshot(path=SHOTS / f"demo-{scheme}-{width}.png", full_page=True)
            if width == 360:
                close(page)
        press(page, "Watch a leader die", "BUTTON")
        page.wait_for_selector("text=1 of 5")
        old = page.locator(".tour b").first.inner_text()
        # Each step has the focus on what leads on.
        page.keyboard.press("Enter")
        page.wait_for_selector("text=2 of 5")
        no_violation(page, "the tour")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=4 of 5")
        page.wait_for_selector("text=The key is still there")
        assert page.locator(".demo-nodes li", has_text=old).locator(".chip").first.inner_text() == "\u2715 killed"
        new = page.locator(".tour b").first.inner_text()
        assert new != old and "no heartbeat of" in page.locator(".tour").inner_text(), page.locator(".tour").inner_text()
        page.wait_for_timeout(2_500)
        no_violation(page, "a new leader")
        page.screenshot(path=SHOTS / "demo-tour.png", full_page=True)
        assert focused(page)["text"].startswith("Heal"), focused(page)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The end")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The end", state="detached")
        # The buttons, without the tour.
        press(page, f"Cut {new}", "BUTTON")
        page.wait_for_selector(".demo-nodes .chip >> text=cut off")
        assert focused(page)["text"] == f"Kill {new}", focused(page)
        press(page, f"Heal {new}", "BUTTON")
        page.wait_for_selector(".demo-nodes .chip >> text=cut off", state="detached")
        # The second press of a double click is no request.
        asked = []
        page.on("request", lambda one: asked.append(one.url) if one.method == "POST" else None)
        page.get_by_role("button", name=f"Kill {new}").dblclick()
        page.wait_for_selector(".demo-nodes .chip >> text=killed")
        page.get_by_role("button", name=f"Heal {new}").dblclick()
        page.wait_for_selector(".demo-nodes .chip >> text=killed", state="detached")
        assert len(asked) == 2 and page.locator(".demo .note.bad").count() == 0, (asked, page.locator(".demo").inner_text())
        show(page, "timeline")
        page.wait_for_selector(".log .chip >> text=leader changed")
        close(page)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(30)


def is_free(port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


# ---- answers that the nodes of a test do not give: a learner, a transfer, an unreachable member, a busy hour ----


def made_up_answers(nodes):
    def member(at, **more):
        return {
            "name": f"node{at}", "role": "follower", "raft_id": 4711 + at, "version": "0.5.0", "term": 4, "applied_index": 184_223, "last_index": 184_223,
            "lag_entries": 0, "round_trip_ms": 0.6, "disk_free_bytes": 81 << 30, "disk_total_bytes": 220 << 30, "uptime_seconds": 93_211, "ready": True,
            "not_ready": None, "http_address": nodes[min(at, 3) - 1].http, "raft_address": nodes[min(at, 3) - 1].raft, "reachable": True, "snapshot": None, **more,
        }

    unknown = ["term", "applied_index", "last_index", "lag_entries", "round_trip_ms", "disk_free_bytes", "disk_total_bytes", "uptime_seconds", "version"]
    members = [
        member(1, lag_entries=3, applied_index=184_220), member(2, role="leader", lag_entries=0, round_trip_ms=None, uptime_seconds=512), member(3),
        member(4, role="learner", lag_entries=90_211, applied_index=94_012, ready=False, not_ready={"code": "lagging", "detail": "this node installs a snapshot"},
               snapshot={"bytes": 61 << 20, "total_bytes": 150 << 20, "bytes_per_second": 12 << 20}),
        member(5, reachable=False, role="unreachable", ready=False, **dict.fromkeys(unknown)),
    ]
    now = time.time()
    at = lambda ago: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - ago)) + f".{int((now - ago) % 1 * 1000):03}Z"
    happened = [
        (900, "node1", "started", "huskv 0.1.0 starts", {}), (890, "node1", "election_won", "2 of 3 votes in term 2", {}),
        (500, "node1", "member_joined", "node3 joined", {}), (300, "node2", "checkpoint", "checkpoint at index 100000", {}),
        (61, "node1", "slow_sync", "a sync took 1240 ms", {"ms": 1240}), (60.4, "node2", "peer_lost", "no message of node1 for 1000 ms", {}),
        (60, "node2", "election_started", "no heartbeat of node1 for 1040 ms", {}), (59.9, "node2", "election_won", "2 of 3 votes in term 4", {}),
        (59.8, "node2", "leader_changed", "node2 leads instead of node1: no heartbeat of node1 for 1040 ms", {"from": "node1", "to": "node2", "reason": "missed_heartbeats"}),
        (58.9, "node1", "leader_changed", "node2 leads instead of node1: a slow sync held its loop up for 1240 ms", {"from": "node1", "to": "node2", "reason": "slow_sync"}),
        (40, "node2", "peer_found", "node1 answers again", {}), (20, "node2", "snapshot_sent", "a snapshot of 150 MiB goes to node4", {}),
        (5, "node2", "join_refused", "node9 may not join: name_in_use", {"code": "name_in_use"}),
    ]
    events = [{"node": node, "id": n, "at": at(ago), "index": 100 + n, "term": 4, "kind": kind, "detail": detail, **more} for n, (ago, node, kind, detail, more) in enumerate(happened, 1)]

    def point(n):
        second, wave, stall = int(now) - 600 + n, max(0, 150 - abs(n - 320)) * 12 + n * 7919 % 97, 240 < n < 270
        return {"at": second, "puts": 40 + wave // (6 if stall else 1), "gets": 90 + wave * 3, "put_p50_ms": 1.1 + n * 31 % 10 / 10 + 40 * stall, "put_p99_ms": 4 + n * 17 % 30 / 10 + 900 * stall,
                "get_p50_ms": 0.3 + n * 13 % 20 / 100, "get_p99_ms": 1 + n * 7 % 20 / 10, "syncs": 8 + wave // 12}

    return {
        "/cluster/overview": {"cluster_id": 5021887459180275319, "asked": "node1", "leader": "node2", "term": 4, "voters": 4, "failure_tolerance": 1, "tolerance": "one more node may fail", "members": members},
        "/cluster/events": {"asked": "node1", "events": events, "missing": ["node5"]},
        "/load": {"node": "node1", "interval_seconds": 1, "points": [point(n) for n in range(600)]},
        "/version": {"huskv": "0.5.0", "commit": "4f1c2ab", "wire": 9, "formats": {}},
    }


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home, nodes = Path(folder), []
        try:
            for number in (1, 2, 3):
                nodes.append(Node(home, f"node{number}"))
            until(lambda: nodes[0].ask("GET", "/readyz")[0] == 200, "node1 is ready")
            for node in nodes[1:]:
                status, answer = nodes[0].ask("POST", "/raft/join", {"node_id": node.name, "raft_address": node.raft})
                assert status == 200, answer
            nodes[0].put("config/limits", '{"rate":12345678901234567890123,"burst":[10,20],"nested":{"a":true,"b":"x\\"y"},"none":{}}', "application/json")
            nodes[0].put("config/motd", "Hello.\nA second line.")
            browser = Browser(playwright)
            cases = [
                every_view_is_accessible_and_fits, every_view_lives, the_timeline_merges_all_nodes,
                the_timeline_of_an_earlier_version_is_that_of_its_node, the_whole_tour_works_by_keyboard, hostile_names_and_values_stay_text,
                an_edit_of_a_key_that_changed_shows_both_texts,
                a_value_saved_as_it_was_keeps_its_bytes, refusals_of_membership_are_shown_with_their_code, a_removed_node_says_so_and_offers_no_change,
                ten_thousand_keys_page_at_once,
                other_sites_may_link_to_the_page_and_read_nothing, the_death_of_the_node_asked_is_said_and_another_is_offered,
            ]
            only = os.environ.get("ONLY", "")
            for case in cases:
                if only in case.__name__:
                    began = time.monotonic()
                    case(browser, nodes)
                    print(f"ok {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
            if only in "the_demo_shows_a_leader_die_by_keyboard":
                the_demo_shows_a_leader_die_by_keyboard(browser, home)
                print("ok the_demo_shows_a_leader_die_by_keyboard", flush=True)
            if only in "a_token_is_asked_for_and_stays_in_the_tab":
                a_token_is_asked_for_and_stays_in_the_tab(browser, home)
                print("ok a_token_is_asked_for_and_stays_in_the_tab", flush=True)
        finally:
            for node in nodes:
                node.kill()
    print("ui_test.py: the test of the page passed")


if __name__ == "__main__":
    main()
