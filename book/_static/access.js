// Small repairs for those who read with a keyboard, with a screen reader, or from disk.

// The theme lets Tab stop at what scrolls sideways, and measures it when the window changes.
// What has just been unfolded must be measured, too.
document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);

// After a click the theme takes the focus from its buttons, to hide the tooltip. One who pressed
// Enter (a click that no pointer made) would be sent back to the top of the page: not so.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button");
  if (button && event.detail === 0) {
    button.blur = () => {};
    setTimeout(() => delete button.blur);
  }
}, true);

// The sidebar holds the title and the search: a region of its own.
document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("pst-primary-sidebar")?.setAttribute("role", "complementary");
});

// A page on disk may not read its neighbors, so results come without excerpts there.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
