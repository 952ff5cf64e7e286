// A part of a page that is looked at again every second: <div data-live="address of the part">.
"use strict";

(() => {
  const EVERY_MS = 1000;
  const part = document.querySelector("[data-live]");
  const button = document.querySelector("[data-live-button]");
  if (!part || !button) return;
  let paused = false;

  function put(text) {
    // What scrolled sideways or has the keyboard stays so.
    const region = part.querySelector(".scroll");
    const left = region ? region.scrollLeft : 0;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const link = focused && focused.getAttribute("href");
    part.innerHTML = text;
    const fresh = part.querySelector(".scroll");
    if (fresh) fresh.scrollLeft = left;
    if (link) [...part.querySelectorAll("a")].find((one) => one.getAttribute("href") === link)?.focus();
    else if (focused && fresh) fresh.focus();
  }

  async function look() {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch(part.dataset.live, { redirect: "error" });
        if (!answer.ok) throw new Error(String(answer.status));
        const text = await answer.text();
        if (!paused) put(text);
      } catch (failed) {
        // Signed out, or the server is gone: what is shown stays, and says that it is old.
        press(true);
        button.textContent = "Lost: look again";
      }
    }
    setTimeout(look, EVERY_MS);
  }

  function press(pause) {
    paused = pause;
    button.textContent = pause ? "Go on" : "Pause";
  }

  button.hidden = false;
  button.addEventListener("click", () => press(!paused));
  setTimeout(look, EVERY_MS);
})();
