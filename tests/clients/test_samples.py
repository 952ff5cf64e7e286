"""Every sample of the documentation, taken from its page as a reader sees it, and run.

Shell by `bash`, Python with the installed SDKs, JavaScript by `node` with the packages of
`node/package-lock.json`, against the gateway of these tests, whose providers are the demo. What a
reader has to put in (a key, a code, the id of a receipt) is put in; nothing else is changed. A
sample without an expectation here fails, and so does a box of code on a page that is none.
"""

import html
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from client_site import ROOT, Caller, Site, environment
from test_agent_commands import (
    AGENTS,
    GEMINI_SETTINGS,
    PRINTED,
    claude_settings,
    codex_settings,
    found,
    run,
)

from gateway.web.docs import DOCS

pytestmark = pytest.mark.clients

RUN_S = 60
RUNNER = Path(__file__).parent / "run_samples.py"

_PANEL = re.compile(
    r'<div role="tabpanel" id="([a-z_]+)-p(\d+)" aria-labelledby="[a-z_]+-t\d+"(?: hidden)?>'
    r'.*?<code class="language-(\w+)">(.*?)</code>',
    re.DOTALL,
)

RAIN = r'The tool \S+ answered: "Rain in demo city\."\..*\n'
HELLO = 'You said: "Say hello.".'
RECEIPT = 'You said: "What is a receipt?".'
COUNT = 'You said: "Count to five.".'
NUMBERS = r"(\d+) numbers\n\1 numbers\n"
A_RECEIPT = r"succeeded \d+ tokens, \$0\.0\d+\n"
AN_ID = r"[0-9a-f]{8}-[0-9a-f-]{27}"


def literal(text: str) -> str:
    return re.escape(text)


# name -> what curl's output has in it, and what the whole output of a program is.
EXPECTED: dict[str, tuple[str, str]] = {
    "first_call": (literal(HELLO.replace('"', '\\"')), literal(HELLO) + r".*\n"),
    "receipt": (r'^\{"object":"list","data":\[\{"id":"', literal(HELLO) + r".*\n" + A_RECEIPT),
    "bearer": (r'"(data|models)":\s*\[\{', ""),
    "byok": (literal(HELLO.replace('"', '\\"')), literal(HELLO) + r".*\n"),
    "chat": (literal(RECEIPT.replace('"', '\\"')), literal(RECEIPT) + r".*\n\d+ tokens\n"),
    "chat_stream": (r"data: \[DONE\]\n\n$", literal(COUNT) + r".*\n\d+ tokens\n"),
    "responses": (r'"status":\s*"completed"', literal(RECEIPT) + r".*\n"),
    "responses_stream": (r"event: response\.completed", literal(COUNT) + r".*\n\d+ tokens\n"),
    "messages": (r'"stop_reason":\s*"end_turn"', literal(RECEIPT) + r".*\n"),
    "messages_stream": (r"event: message_stop", literal(COUNT) + r".*\n\d+ tokens\n"),
    "gemini": (r'"finishReason":\s*"STOP"', literal(RECEIPT) + r".*\n"),
    "gemini_stream": (r'"finishReason":\s*"STOP"', literal(COUNT) + r".*\n\d+ tokens\n"),
    "embeddings": (r'"embedding":\s*\[\s*-?\d', NUMBERS),
    "gemini_embeddings": (r'"values":\s*\[\s*-?\d', NUMBERS),
    "models": (r'"id":"budget".*"input_per_mtok":"0\.15', r"budget 0\.15\d*\n(.+ \d.*\n){20,}"),
    "one_model": (r'"(id|name)":"(models/)?budget"', ""),
    "count_messages": (r'^\{"input_tokens":\s*\d+\}$', r"\d+ tokens\n"),
    "count_responses": (r'"input_tokens":\s*\d+', r"\d+ tokens\n"),
    "count_gemini": (r'"totalTokens":\s*\d+', r"\d+ tokens\n"),
    "receipts": (r'"object":"list".*"status":"succeeded"', rf"({AN_ID} \S+ \$\d+(\.\d+)?\n)+"),
    "one_receipt": (rf'^{{"id":"{AN_ID}","object":"receipt"', A_RECEIPT),
    "account": (r'"object":"account"', r"balance \$\d+\.\d+ held \$\d+\.\d+\n"),
    "usage": (r'"object":"usage"', r"(\d{4}-\d\d-\d\d \S+ \d+ \$\d+(\.\d+)?\n)+total \$\d+\.\d+\n"),
    "redeem": (r'"object":"redemption"', r"balance \$\d+\.\d+\n"),
    "tools_chat": (r'"name":\s*"get_forecast"', RAIN),
    "tools_messages": (r'"type":\s*"tool_use"', RAIN),
    "structured": (r'\\"age\\":', r".+ -?\d+\n"),
    "limit_headers": (
        r"(?i)x-ratelimit-remaining-requests: \d+",
        r"\d+ more requests at once\n\d+ more tokens\n",
    ),
    "errors": (
        r"(?s)^HTTP/1\.1 400 .*unknown_model_pricing",
        rf"400 unknown_model_pricing .*Unknown model pricing: no-such-model.*\nreceipt {AN_ID}\n",
    ),
    "sdk_openai": ("", literal(HELLO) + r".*\n"),
    "sdk_anthropic": ("", literal(HELLO) + r".*\n"),
    "sdk_google": ("", literal(HELLO) + r".*\n"),
    "sdk_langchain": ("", literal(HELLO) + r".*\n"),
    "sdk_litellm": ("", literal(HELLO) + r".*\n"),
}

# What a program says that is told nothing but the environment of a page.
BY_ENVIRONMENT = {
    "sdk_openai": "from openai import OpenAI\n"
    "print(OpenAI().responses.create(model='budget', input='Say hello.').output_text)",
    "sdk_anthropic": "from anthropic import Anthropic\n"
    "print(Anthropic().messages.create(model='budget', max_tokens=99,"
    " messages=[{'role': 'user', 'content': 'Say hello.'}]).content[0].text)",
    "sdk_google": "from google import genai\n"
    "client = genai.Client()\n"
    "print(client.models.generate_content(model='budget', contents='Say hello.').text)",
}
SETTINGS = {"agent_claude", "agent_codex", "agent_gemini", "app_open_webui"}


class Sample(msgspec.Struct, frozen=True):
    name: str
    language: str
    text: str

    @property
    def exports(self) -> bool:
        return self.language == "bash" and self.text.startswith("export ")


def page(site: Site, path: str) -> str:
    answer = site.get(path, None)
    assert answer.status_code == 200, answer.text
    return answer.text


def samples_of(text: str) -> list[Sample]:
    return [
        Sample(name, language, html.unescape(code))
        for name, _, language, code in _PANEL.findall(text)
    ]


@pytest.fixture
def filled(site: Site, gateway_key: Caller) -> dict[str, str]:
    """What a reader puts in."""
    headers = {"authorization": f"Bearer {gateway_key.key}"}
    body = {"model": "budget", "messages": [{"role": "user", "content": "Hi"}]}
    answer = site._http.post("/v1/chat/completions", headers=headers, json=body)
    return {
        "YOUR_PROVIDER_KEY": site.caller("own_key").key,
        "YOUR_KEY": gateway_key.key,
        "RECEIPT_ID": answer.headers["x-badgr-receipt-id"],
    }


def put_in(sample: Sample, filled: dict[str, str], site: Site) -> str:
    text = sample.text
    if "YOUR_CODE" in text:
        (code,) = site.admin("/codes", amount="1.00")["data"]
        text = text.replace("YOUR_CODE", code["code"])
    for word, value in filled.items():
        text = text.replace(word, value)
    return text


def bash(text: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        env=environment(), capture_output=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stderr.decode()}"
    return done.stdout.decode()


def python(texts: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        input=msgspec.json.encode(texts),
        env={**environment(), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=list[str])


def node(texts: list[str], modules: Path) -> list[str]:
    """Each is a module in the directory where the packages are; marks stand between outputs."""
    lines = []
    for number, text in enumerate(texts):
        (modules / f"sample-{number}.mjs").write_text(text)
        lines.append(
            f'process.stdout.write("\\x1e"); '
            f'await import("./sample-{number}.mjs").catch((error) => console.log(error));'
        )
    (modules / "samples.mjs").write_text("\n".join(lines))
    done = subprocess.run(
        ["node", "samples.mjs"],
        cwd=modules, env=environment(), capture_output=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split("\x1e")[1:]


@pytest.fixture(scope="session")
def with_samples(site: Site) -> dict[str, list[Sample]]:
    """By page, what there is to run."""
    return {doc.path: samples_of(page(site, doc.path)) for doc in DOCS}


def test_every_sample_has_an_expectation_and_every_expectation_a_sample(
    with_samples: dict[str, list[Sample]],
) -> None:
    names = {one.name for samples in with_samples.values() for one in samples}
    assert names == EXPECTED.keys() | SETTINGS
    assert len([one for samples in with_samples.values() for one in samples]) > 90


@pytest.mark.parametrize("path", [doc.path for doc in DOCS])
def test_curl_samples_of_a_page_answer(
    path: str, with_samples: dict[str, list[Sample]], site: Site, filled: dict[str, str]
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for sample in with_samples[path]:
        if sample.language == "bash" and not sample.exports:
            printed = bash(put_in(sample, filled, site))
            assert re.search(EXPECTED[sample.name][0], printed), f"{sample.name}: {printed[:2000]}"


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_programs_of_all_pages_run(
    language: str, with_samples: dict[str, list[Sample]], site: Site, filled: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    programs = [
        one for samples in with_samples.values() for one in samples if one.language == language
    ]
    assert len(programs) >= 30
    texts = [put_in(one, filled, site) for one in programs]
    if language == "python":
        outputs = python(texts)
    else:
        outputs = node(texts, request.getfixturevalue("modules"))
    wrong = [
        f"{sample.name}: {printed[:2000]}"
        for sample, printed in zip(programs, outputs, strict=True)
        if not re.fullmatch(EXPECTED[sample.name][1], printed)
    ]
    assert not wrong, "\n".join(wrong)


def test_python_sdks_find_the_gateway_by_the_environment_alone(
    with_samples: dict[str, list[Sample]], site: Site, filled: dict[str, str]
) -> None:
    exports = {one.name: one for one in with_samples["/docs/sdks"] if one.exports}
    assert exports.keys() == BY_ENVIRONMENT.keys()
    for name, program in BY_ENVIRONMENT.items():
        text = put_in(exports[name], filled, site)
        printed = bash(f'{text}\n{sys.executable} -c "{program}"')
        assert re.fullmatch(literal(HELLO) + r".*\n", printed), printed


# --- agents: their settings, and where they are installed the commands themselves ---------------


def exported(text: str) -> dict[str, str]:
    """What a shell has in its environment after the lines of a page, and had not before."""
    before = environment()
    done = subprocess.run(
        ["bash", "-euc", f"{text}\nenv -0"],
        env=before, capture_output=True, timeout=RUN_S, check=True,
    )  # fmt: skip
    pairs = (one.split("=", 1) for one in done.stdout.decode().split("\0") if one)
    return {name: value for name, value in pairs if name not in {*before, "_", "SHLVL", "PWD"}}


def settings_of(
    name: str, with_samples: dict[str, list[Sample]], site: Site, filled: dict[str, str]
) -> dict[str, str]:
    """By language, the settings of an agent, with the key put in."""
    return {
        one.language: put_in(one, filled, site)
        for one in with_samples["/docs/agents"]
        if one.name == name
    }


def test_settings_of_agents_are_those_that_the_commands_were_tried_with(
    with_samples: dict[str, list[Sample]], site: Site, filled: dict[str, str], tmp_path: Path
) -> None:
    key, url = filled["YOUR_KEY"], site.gateway
    claude = settings_of("agent_claude", with_samples, site, filled)
    assert exported(claude["bash"]) == claude_settings(tmp_path, url, key, "budget")
    codex = settings_of("agent_codex", with_samples, site, filled)
    assert exported(codex["bash"]) == codex_settings(tmp_path, url, key, "budget")
    tried = tomllib.loads((tmp_path / ".codex/config.toml").read_text())
    # What the commands were tried with reasons; what the page names need not.
    assert tomllib.loads(codex["toml"]) == {**tried, "model_reasoning_summary": "none"}
    gemini = settings_of("agent_gemini", with_samples, site, filled)
    assert exported(gemini["bash"]) == {
        "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": key, "GEMINI_MODEL": "budget",
    }  # fmt: skip
    assert msgspec.json.decode(gemini["json"]) == GEMINI_SETTINGS
    web_ui = settings_of("app_open_webui", with_samples, site, filled)
    assert exported(web_ui["bash"]) == {
        "OPENAI_API_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key, "ENABLE_OLLAMA_API": "false",
    }  # fmt: skip


def test_what_open_webui_asks_first_is_answered(site: Site, gateway_key: Caller) -> None:
    answer = site.get("/v1/models", gateway_key.key)
    assert "budget" in [one["id"] for one in answer.json()["data"]]


def test_the_readme_says_the_same_of_agents(
    with_samples: dict[str, list[Sample]], site: Site
) -> None:
    readme = (ROOT / "README.md").read_text()
    indented = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", readme, re.MULTILINE)
    blocks = ["\n".join(line[4:] for line in block.splitlines()) for block in indented]
    (toml,) = (tomllib.loads(one) for one in blocks if "[model_providers.gateway]" in one)
    filled = {"YOUR_KEY": "gw-…", site.gateway: "http://127.0.0.1:8000", "budget": "premium"}
    ours = settings_of("agent_codex", with_samples, site, filled)["toml"]
    assert tomllib.loads(ours) == toml
    shell = [line for one in blocks for line in one.splitlines() if line.startswith("export ")]
    for name in ("agent_claude", "agent_gemini"):
        names = exported(settings_of(name, with_samples, site, filled)["bash"])
        assert names.keys() <= {
            word.partition("=")[0] for line in shell for word in line.split() if "=" in word
        }


@pytest.mark.parametrize("name", AGENTS)
def test_a_command_runs_with_the_settings_of_the_page(
    name: str, with_samples: dict[str, list[Sample]], site: Site, filled: dict[str, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    command = found(name)
    settings = settings_of(f"agent_{name}", with_samples, site, filled)
    for language, file in (("toml", ".codex/config.toml"), ("json", ".gemini/settings.json")):
        if language in settings:
            (tmp_path / "home" / file).parent.mkdir(parents=True)
            (tmp_path / "home" / file).write_text(settings[language])
    (tmp_path / "home").mkdir(exist_ok=True)
    assert PRINTED in run(command, AGENTS[name], tmp_path, exported(settings["bash"]))
