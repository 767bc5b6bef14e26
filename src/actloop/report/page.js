"use strict";
for (const menu of document.querySelectorAll("select[data-chooser]")) {
  const section = menu.closest("section");
  const show = () => {
    for (const part of section.querySelectorAll("[data-choice]")) {
      const chosen = part.dataset.choice === menu.value;
      part.hidden = !chosen;
      for (const video of part.querySelectorAll("video")) {
        if (!chosen) video.pause();
        else video.play().catch(() => {});
      }
    }
  };
  menu.addEventListener("change", show);
  show();
}
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not(.timelined)")) fold.open = true;
});
