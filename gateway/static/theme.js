// Light, dark, or as the system has it. Not deferred: the page is to come in its colours, and not to change them before one's eyes.
"use strict";

{
  const NAME = "luna-theme";

  /** Browsers may be told to keep nothing; then a choice lasts as long as the page. */
  const kept = () => {
    try {
      return localStorage.getItem(NAME) ?? "system";
    } catch {
      return "system";
    }
  };

  const wear = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };

  wear(kept());
  addEventListener("DOMContentLoaded", () => {
    const chooser = document.getElementById("theme");
    if (!chooser) return;
    chooser.value = document.documentElement.dataset.theme ?? "system";
    chooser.closest("[hidden]").hidden = false;
    chooser.addEventListener("change", () => {
      wear(chooser.value);
      chooser.blur(); // the keys are those of the page again
      try {
        localStorage.setItem(NAME, chooser.value);
      } catch {
        // See above.
      }
    });
    addEventListener("storage", ({ key }) => {
      if (key !== NAME) return;
      wear(kept());
      chooser.value = document.documentElement.dataset.theme ?? "system";
    });
  });
}
