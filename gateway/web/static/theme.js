// Runs before anything is drawn: the visitor's choice of light or dark, where one was made.
"use strict";
(function () {
  // Without scripts nothing may hide behind a button.
  document.documentElement.classList.add("scripted");
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch (refused) {
    // Storage is switched off: the system's setting holds.
  }
})();
