// What scrolls sideways can be reached and scrolled by the keyboard; the search dialog has a name.
addEventListener("load", () => {
  for (const one of document.querySelectorAll("pre > code, p:has(> img), .md-typeset__scrollwrap"))
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
});
