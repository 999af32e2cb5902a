// Searches while somebody types; every search has its own address.

const PAUSE = 250; // ms without a key

/** Call `changed` when the address has become that of another search. */
export function searchWhileTyping(changed) {
  let timer = 0;

  function search(form) {
    clearTimeout(timer);
    const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    const query = wanted.toString();
    // Relative: it may not lose the name and the password that the address holds, if it does.
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
    changed();
  }

  document.addEventListener("input", ({ target, isComposing }) => {
    if (target.id !== "q" || isComposing) return;
    clearTimeout(timer);
    timer = setTimeout(() => search(target.form), PAUSE);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "search") return;
    event.preventDefault();
    search(event.target);
  });
}
