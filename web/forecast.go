package web

import (
	"fmt"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// A forecastView is when certificates expire, as it is drawn.
type forecastView struct {
	*enroll.Forecast
	Chart   columnChart
	Rows    []forecastRow // of the weeks in which something expires
	Overdue int64
	Later   int64
}

// A forecastRow is one week in numbers.
type forecastRow struct {
	Week   string
	From   time.Time
	Counts []int64 // by holder
	Total  int64
}

func forecastOf(f *enroll.Forecast) forecastView {
	v := forecastView{Forecast: f}
	var columns []chartColumn
	for n, w := range f.Weeks {
		row := forecastRow{Week: w.Week, From: w.From}
		var words []string
		for _, h := range f.Holders {
			count := w.Expiring[string(h)]
			row.Counts, row.Total = append(row.Counts, count), row.Total+count
			if count > 0 {
				words = append(words, grouped(count)+" "+string(h))
			}
		}
		column := chartColumn{Parts: row.Counts, Label: w.Week + ": " + pick(len(words) > 0, strings.Join(words, ", "), "none")}
		if n%13 == 0 && n+6 < len(f.Weeks) { // a word at the edge would be cut
			column.Tick = w.From.UTC().Format("Jan 2006")
		}
		columns = append(columns, column)
		if row.Total > 0 {
			v.Rows = append(v.Rows, row)
		}
	}
	for _, h := range f.Holders {
		v.Overdue, v.Later = v.Overdue+f.Overdue[string(h)], v.Later+f.Later[string(h)]
	}
	v.Chart = newColumnChart(columns, 940, 200)
	return v
}

// A chartColumn is one column of a chart: its parts stand on each other.
type chartColumn struct {
	Parts []int64
	Label string
	Tick  string // below it; empty for none
}

// A columnChart is columns with an axis, in pixels.
type columnChart struct {
	Width, Height int // of the whole
	Left, Base    int // where the axes meet
	Empty         bool
	Parts         []chartPart
	Covers        []chartCover // a column each, over its whole height, with its words
	Lines         []chartLine
	Ticks         []chartTick
	Right, TickY  int
}

// A chartPart is a rectangle of a series.
type chartPart struct {
	Series              int
	X, Y, Width, Height string
}

// A chartCover takes the pointer of a column.
type chartCover struct{ X, Width, Label string }

// A chartLine is a line across, with its value.
type chartLine struct {
	Y     string
	Value string
}

// A chartTick is a word below a column.
type chartTick struct {
	X    string
	Text string
}

// Margins of a chart, in pixels.
const (
	chartLeft   = 52
	chartBottom = 24
	chartTop    = 10
)

// newColumnChart draws columns into a plot of a width and a height.
func newColumnChart(columns []chartColumn, width, height int) columnChart {
	c := columnChart{Width: chartLeft + width + 8, Height: chartTop + height + chartBottom, Left: chartLeft, Base: chartTop + height,
		Right: chartLeft + width, TickY: chartTop + height + 17, Empty: true}
	var most int64
	for _, col := range columns {
		var sum int64
		for _, n := range col.Parts {
			sum += n
		}
		most = max(most, sum)
	}
	c.Empty = most == 0
	top := niceTop(most)
	for _, part := range []int64{0, 1, 2} {
		if value := top * part / 2; part == 0 || top*part%2 == 0 {
			c.Lines = append(c.Lines, chartLine{pixel(float64(c.Base) - float64(height)*float64(value)/float64(top)), grouped(value)})
		}
	}
	step := float64(width) / float64(max(len(columns), 1))
	for i, col := range columns {
		x := float64(chartLeft) + float64(i)*step
		y := float64(c.Base)
		for series, n := range col.Parts {
			if n == 0 {
				continue
			}
			h := max(float64(height)*float64(n)/float64(top), 1)
			y -= h
			c.Parts = append(c.Parts, chartPart{Series: series, X: pixel(x + step*0.08), Y: pixel(y), Width: pixel(step * 0.84), Height: pixel(h)})
		}
		c.Covers = append(c.Covers, chartCover{X: pixel(x), Width: pixel(step), Label: col.Label})
		if col.Tick != "" {
			c.Ticks = append(c.Ticks, chartTick{pixel(x), col.Tick})
		}
	}
	return c
}

// niceTop returns a round number that is at least n, and at least 1.
func niceTop(n int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, f := range []int64{1, 2, 4, 6, 8} {
			if unit*f >= n {
				return unit * f
			}
		}
	}
}

func pixel(v float64) string { return fmt.Sprintf("%.1f", v) }
