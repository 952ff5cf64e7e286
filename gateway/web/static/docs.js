// The documentation: the language that was chosen in one box of samples holds for all, and stays.
"use strict";

(function () {
  const KEPT = "docs-language";

  function choose(language, except) {
    for (const group of document.querySelectorAll("[data-tabs]")) {
      if (group === except) continue;
      for (const tab of group.querySelectorAll('[role="tab"]')) {
        if (tab.textContent !== language) continue;
        for (const other of group.querySelectorAll('[role="tab"]')) {
          const on = other === tab;
          other.setAttribute("aria-selected", String(on));
          other.tabIndex = on ? 0 : -1;
          document.getElementById(other.getAttribute("aria-controls")).hidden = !on;
        }
      }
    }
  }

  // app.js selects within the group; what a person selects is then followed by the others.
  for (const group of document.querySelectorAll("[data-tabs]")) {
    const follow = () => {
      const tab = group.querySelector('[aria-selected="true"]');
      const top = group.getBoundingClientRect().top;
      choose(tab.textContent, group);
      // Boxes above may have changed their height: what was pressed stays where it was.
      scrollBy(0, group.getBoundingClientRect().top - top);
      try {
        localStorage.setItem(KEPT, tab.textContent);
      } catch (refused) {
        // It holds for this page.
      }
    };
    group.addEventListener("click", (event) => {
      if (event.target.matches('[role="tab"]')) follow();
    });
    group.addEventListener("keydown", (event) => {
      if (event.target.matches('[role="tab"]') && event.key.startsWith("Arrow")) follow();
    });
  }

  // A link to something folded away unfolds it; paper has no folds.
  function unfold() {
    const at = document.getElementById(location.hash.slice(1));
    if (!at) return;
    const folded = at.closest("details");
    if (folded && !folded.open) {
      folded.open = true;
      at.scrollIntoView();
    }
  }
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("article details")) folded.open = true;
  });

  try {
    const kept = localStorage.getItem(KEPT);
    if (kept) choose(kept, null);
  } catch (refused) {
    // Every box then opens with its first.
  }
})();
