// What pages do beyond links and forms. Every page works without it, but for copying and charts.
"use strict";

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function themeButtons() {
  for (const button of document.querySelectorAll("[data-theme-button]")) {
    button.addEventListener("click", () => {
      const theme = dark() ? "light" : "dark";
      document.documentElement.dataset.theme = theme;
      try {
        localStorage.setItem("theme", theme);
      } catch (refused) {
        // It holds for this page.
      }
      document.dispatchEvent(new Event("themechange"));
    });
  }
}

function menuButton() {
  const button = document.querySelector("[data-menu]");
  if (!button) return;
  const toggle = (open) => {
    button.setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("menu-open", open);
  };
  button.addEventListener("click", () => toggle(button.getAttribute("aria-expanded") !== "true"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.classList.contains("menu-open")) {
      toggle(false);
      button.focus();
    }
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (refused) {
    // No clipboard without TLS: the old way.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copyButtons() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    const words = button.textContent;
    button.addEventListener("click", async () => {
      const source = button.dataset.copy
        ? document.getElementById(button.dataset.copy)
        : button.parentElement.querySelector("code");
      await copy(source.value ?? source.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = words), 1500);
    });
  }
}

function tabs() {
  for (const group of document.querySelectorAll("[data-tabs]")) {
    const all = [...group.querySelectorAll('[role="tab"]')];
    const select = (chosen, focus) => {
      for (const tab of all) {
        const on = tab === chosen;
        tab.setAttribute("aria-selected", String(on));
        tab.tabIndex = on ? 0 : -1;
        document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
      }
      if (focus) chosen.focus();
    };
    all.forEach((tab, index) => {
      tab.addEventListener("click", () => select(tab, false));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        select(all[(index + step + all.length) % all.length], true);
      });
    });
  }
}

// The token of a one-time link stands behind the #: into its field, and out of the address.
function fragmentField() {
  const field = document.querySelector("[data-from-fragment]");
  if (!field || location.hash.length < 2) return;
  // Tokens are of letters that need no escaping: what stands there is taken as it is.
  field.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
}

// A form that cannot be taken back asks first.
function confirmations() {
  for (const form of document.querySelectorAll("form[data-confirm]")) {
    form.addEventListener("submit", (event) => {
      if (!window.confirm(form.dataset.confirm)) event.preventDefault();
    });
  }
}

// A form is sent once, however often its button is pressed; again after coming back to the page.
function sentOnce() {
  const sent = new Set();
  addEventListener("pageshow", () => sent.clear());
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.method !== "post") return;
    if (sent.has(form)) event.preventDefault();
    sent.add(form);
  });
}

// Times as the visitor's clock has them; UTC stays in the title.
function localTimes() {
  const pad = (number) => String(number).padStart(2, "0");
  for (const element of document.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.title = element.textContent;
    element.textContent =
      `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ` +
      `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  }
}

// Rows of a table by what is typed: <input data-filter="table-id">.
function filters() {
  for (const input of document.querySelectorAll("input[data-filter]")) {
    const table = document.getElementById(input.dataset.filter);
    if (!table) continue; // nothing was found
    const rows = [...table.querySelectorAll("tbody tr")];
    const shown = document.querySelector(`[data-filter-count="${input.dataset.filter}"]`);
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        if (!row.hidden) count += 1;
      }
      if (shown) shown.textContent = String(count);
    };
    input.addEventListener("input", apply);
    apply();
  }
}

themeButtons();
menuButton();
copyButtons();
tabs();
fragmentField();
confirmations();
sentOnce();
localTimes();
filters();
