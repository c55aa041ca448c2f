package web

import "time"

// A life is how much of a validity is left.
type life struct {
	NotBefore, NotAfter time.Time
	Tone                string // ok; warn from a third on (I17); bad when it has ended
	Left                string // for a person
	Used                int    // percent of it that has passed
}

func lifeOf(notBefore, notAfter, now time.Time) life {
	l := life{NotBefore: notBefore, NotAfter: notAfter, Tone: "ok", Used: 100}
	left, whole := notAfter.Sub(now), notAfter.Sub(notBefore)
	switch {
	case left <= 0:
		l.Tone, l.Left = "bad", "expired "+spanText(left)+" ago"
		return l
	case left <= whole/3:
		l.Tone = "warn"
	}
	l.Left = spanText(left) + " left"
	if whole > 0 {
		l.Used = int(max(0, min(100, 100*now.Sub(notBefore)/whole)))
	}
	return l
}
