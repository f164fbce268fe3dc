"""`digsite log draft`: what is sent where, what is kept, and that no word of a person is touched."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from command import fits, run

KEY = "sk-never-to-be-seen"
BARE, TOLD = '---\nsummary: ""\ntitle: night\n---\n\nThe probe does nothing.\n', "---\nsummary: mine\n---\n\nNotes.\n"


@pytest.fixture
def log(tmp_path, monkeypatch):
    (tmp_path / "dig.sqlite").touch()
    folder = tmp_path / "log"
    folder.mkdir()
    for day, text in (("2026-01-18", "# Plain\n\nNo front.\n"), ("2026-01-19", BARE), ("2026-01-20", TOLD)):
        (folder / f"{day}.md").write_text(text)
    (folder / "2026-01-21.md").write_text("---\ntitle: nothing noted\n---\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return folder


@pytest.fixture
def endpoint():
    """A server on this machine that answers every question alike, and remembers it."""
    asked, answers = [], {"code": 200, "content": " It fails,\n  as before. "}

    class Model(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
            choice["message"]["content"] = answers["content"]
            told = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            told = told if answers["code"] == 200 else {"error": {"message": f"no such key {KEY}"}}
            self.send_response(answers["code"])
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_request(self, code="-", size="-"):
            pass

    server = HTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked, answers
    server.shutdown()
    server.server_close()


def draft(where, *more):
    return run("log", "draft", "--endpoint", where, "--model", "tiny-7b", *more)


def test_a_draft_is_marked_and_a_summary_is_never_touched(log, endpoint):
    pytest.importorskip("openai", reason="needs openai: pip install digsite[judge]")
    where, asked, _ = endpoint
    made = draft(where)
    assert made.code == 0 and f"the notes of 2 days go to {where}" in made.err, made.err
    assert made.out.splitlines()[0] == "2026-01-19  draft by tiny-7b: It fails, as before." and fits(made.out)
    assert [(path, key) for path, key, _ in asked] == [("/v1/chat/completions", f"Bearer {KEY}")] * 2
    assert "The probe does nothing." in asked[0][2]["messages"][1]["content"] and asked[0][2]["model"] == "tiny-7b"
    text = (log / "2026-01-19.md").read_text()
    assert text == BARE.replace("night\n", 'night\ndrafted: "tiny-7b: It fails, as before."\n')
    assert (log / "2026-01-20.md").read_text() == TOLD
    assert "**Drafted:** tiny-7b: It fails, as before." in (log / "2026-01-18.md").read_text()
    assert not any(KEY in file.read_text() for file in log.iterdir() if file.is_file())
    run("log", "summary")
    for page in ("README.md", "index.html"):
        assert (log / page).read_text().count("Draft by tiny-7b: It fails, as before.") == 2
    assert json.loads(draft(where, "--json").out) == {"drafts": []} and len(asked) == 2, (
        "a draft is not asked for twice"
    )
    (log / "2026-01-19.md").write_text(text.replace('summary: ""', "summary: my own words"))
    run("log", "summary")
    assert (log / "README.md").read_text().count("Draft by") == 1


@pytest.mark.parametrize("wrong", [{"code": 401}, {"content": " "}])
def test_an_endpoint_that_gives_none_is_said_and_nothing_is_written(log, endpoint, wrong):
    pytest.importorskip("openai", reason="needs openai: pip install digsite[judge]")
    where, _, answers = endpoint
    answers |= wrong
    made = draft(where)
    assert made.code == 1 and KEY not in made.err + made.out
    assert ("gave no draft of 2026-01-19" if "code" in wrong else "answered nothing about 2026-01-19") in made.err
    assert (log / "2026-01-19.md").read_text() == BARE


def test_without_the_package_it_says_which(log, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    made = draft("http://127.0.0.1:9/v1")
    assert made.code == 1 and 'pip install "digsite[judge]"' in made.err
