"use strict";
// Marks of a figure: the arrow keys go to the nearest one that way, and its value is shown beside it.
const tip = document.getElementById("tip");
const show = (mark) => {
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  const at = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(innerWidth - own.width - 6, at.left + at.width / 2 - own.width / 2)) + "px";
  tip.style.top = (at.top > own.height + 10 ? at.top - own.height - 7 : at.bottom + 7) + "px";
};
const hide = () => { tip.hidden = true; };
const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
for (const svg of document.querySelectorAll(".digsite-svg")) {
  const marks = [...svg.querySelectorAll(".mark")];
  marks.forEach((mark, place) => {
    mark.querySelector("title").remove(); // aria-label says the same; the system's own tip would cover ours
    mark.setAttribute("tabindex", place ? "-1" : "0"); // one stop for the Tab key, arrows within
  });
  svg.addEventListener("pointerover", (event) => { const mark = event.target.closest(".mark"); mark ? show(mark) : hide(); });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focusout", hide);
  svg.addEventListener("focusin", (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return;
    marks.forEach((other) => other.setAttribute("tabindex", other === mark ? "0" : "-1"));
    show(mark);
  });
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const way = ways[event.key], from = event.target.closest(".mark");
    if (!way || !from || event.altKey || event.ctrlKey || event.metaKey) return;
    const middle = (mark) => { const box = mark.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; };
    const [x, y] = middle(from);
    let best = null, least = Infinity;
    for (const mark of marks) {
      const [dx, dy] = middle(mark).map((value, side) => value - [x, y][side]);
      const ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (ahead > 0.5 && ahead + 4 * aside < least) { best = mark; least = ahead + 4 * aside; }
    }
    event.preventDefault();
    if (best) { best.focus(); best.scrollIntoView({ block: "nearest", inline: "nearest" }); show(best); }
  });
}
// A link opens what it leads to.
const open = () => {
  const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (aim && aim.tagName === "DETAILS") { aim.open = true; aim.querySelector("summary").focus(); }
};
addEventListener("hashchange", open);
open();
addEventListener("scroll", hide, { passive: true, capture: true });
// What goes on beyond the right edge fades out there.
const fade = () => { for (const box of document.querySelectorAll(".scroll")) box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 4); };
addEventListener("scroll", fade, { passive: true, capture: true });
addEventListener("resize", fade);
fade();
// Prompt pairs: the buttons, and the arrow keys while one of them has the focus, walk through them.
for (const box of document.querySelectorAll(".pairs")) {
  const pairs = [...box.querySelectorAll(".pair")], steps = box.querySelector(".steps");
  if (!steps) continue;
  let shown = 0;
  const step = (by) => {
    pairs[shown].hidden = true;
    shown = (shown + by + pairs.length) % pairs.length;
    pairs[shown].hidden = false;
    steps.querySelector("b").textContent = shown + 1;
  };
  const [back, on] = steps.querySelectorAll("button");
  steps.hidden = false;
  back.addEventListener("click", () => step(-1));
  on.addEventListener("click", () => step(1));
  steps.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); step(event.key === "ArrowLeft" ? -1 : 1); }
  });
}
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const command = button.previousElementSibling;
    try { await navigator.clipboard.writeText(command.textContent); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(command); button.textContent = "Selected"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
}
