// Caps are edited where they stand: the form that the link would open, without the way there.
"use strict";

const capForm = document.getElementById("cap-form");
for (const link of document.querySelectorAll("[data-cap]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const form = capForm.content.firstElementChild.cloneNode(true);
    const amount = form.elements.amount;
    form.elements.model.value = link.dataset.cap;
    form.elements.q.value = document.getElementById("q").value;
    amount.value = link.dataset.amount;
    amount.setAttribute("aria-label", `The most that a call of ${link.dataset.cap} may cost, US dollars`);
    const cell = link.parentElement;
    const before = [...cell.childNodes];
    form.addEventListener("keydown", (key) => {
      if (key.key !== "Escape") return;
      cell.replaceChildren(...before);
      link.focus();
    });
    cell.replaceChildren(form);
    amount.focus();
    amount.select();
    form.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
